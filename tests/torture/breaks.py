"""A test that cannot fail is none: each guard broken on purpose, and the torture test that must see it.

    python -m tests.torture.breaks            # all of them: five minutes
    python -m tests.torture.breaks signals    # those whose name begins so

Each break is an edit of one place in a copy of the repository; the test runs there, in CI's share, and has to go red.
`test_every_break_still_finds_its_place` (test_breaks.py) holds that the places are still in the code.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Break:
    name: str
    file: str  # in src/florilegium
    old: str
    new: str
    test: str  # in tests/torture


# fmt: off
BREAKS = [
    Break("kill -9: the random states are not restored", "training/step.py", "set_random_states(snapshot.random, self.device)",
          "pass", "test_commit.py::test_kills_at_random_times"),
    Break("nth operation: the older ones go before the newer is there", "training/checkpoint.py",
          "    try:\n        _commit(final, snapshot, json",
          "    _rotate(folder, final, 1)\n    try:\n        _commit(final, snapshot, json",
          "test_commit.py::test_death_at_every_operation_of_a_save"),
    Break("nth operation: a folder is built under its final name", "storage/atomic_folders.py", "os.rename(temporary, final)\n        except",
          "os.rename(temporary, final); os.unlink(final / manifest)\n        except",
          "test_commit.py::test_death_at_every_operation_of_a_save"),
    Break("power cut: files are not flushed", "storage/atomic_files.py", "        yield Output(handle)\n        os.fsync(handle)",
          "        yield Output(handle)", "test_commit.py::test_power_cuts"),
    Break("power cut: the parent is not flushed", "storage/atomic_folders.py", "        sync_folder(final.parent)", "        pass",
          "test_commit.py::test_power_cuts"),
    Break("damage: sums are not compared", "storage/atomic_folders.py", 'if hashlib.sha256(data).hexdigest() != entry["sha256"]:', "if False:",
          "test_commit.py::test_damage_of_every_kind"),
    Break("another run: its checkpoint is taken", "training/checkpoint.py", "for name in IDENTITY if whose else ():", "for name in ():",
          "test_commit.py::test_a_checkpoint_of_another_run_is_not_taken"),
    Break("full disk: needed and free are not said", "storage/atomic_files.py", "            no_room_fix(path, room.needed)\n            if error.errno in NO_ROOM\n            else",
          "           ", "test_full_disk.py"),
    Break("no number: a step's loss is not looked at", "training/step.py", "        check_step(host.number, loss, grad_norm)\n", "",
          "test_numbers.py::test_no_number_at_any_step"),
    Break("no number: a step that has none is taken", "training/step.py",
          "        trainer.optimizer.zero_grad(set_to_none=not kept)\n        return", "        pass",
          "../training/test_training.py::test_a_step_that_holds_none_moves_nothing"),
    Break("no number: what is saved is not looked at", "training/checkpoint.py", "    check_snapshot(snapshot.progress.step,",
          "    (lambda *a: None)(snapshot.progress.step,", "test_numbers.py::test_no_number_at_any_step"),
    Break("signals: the work is not saved", "runs/train.py", "recorder.save(end)", "pass", "test_signals.py::test_signals_at_every_stage"),
    Break("signals: the step is not finished", "signals.py", "if not self.deferring:", "if True:",
          "test_signals.py::test_signals_at_every_stage"),
    Break("signals: a second Ctrl-C waits", "signals.py", "signal.signal(signal.SIGINT, signal.SIG_DFL)", "pass",
          "test_signals.py::test_a_second_ctrl_c_ends_at_once_and_what_is_on_disk_is_whole"),
    Break("memory: what ran out is not known", "storage/library_errors.py", "\"can't allocate memory\",", "",
          "test_memory.py::test_steps_down"),
    Break("memory: sampling does not step down", "generation/generate.py", "if len(requests) == 1 or not is_out_of_memory(error):",
          "if True:", "../generation/test_generation.py::test_where_memory_runs_out_fewer_rows_are_written_at_once"),
    Break("memory: a token comes twice", "generation/generate.py", "if seen[written.request] > sent[begin + written.request]:", "if True:",
          "../generation/test_generation.py::test_where_memory_runs_out_fewer_rows_are_written_at_once"),
    Break("memory: gradients of the failed try stay", "training/loop.py",
          "trainer.optimizer.zero_grad(set_to_none=trainer.replay is None)", "pass", "test_memory.py::test_steps_down"),
    Break("memory: a save without memory is a traceback", "training/checkpoint.py", "except (MemoryError, RuntimeError) as error:",
          "except RuntimeError as error:", "test_memory.py::test_steps_down"),
    Break("memory: the step down is forgotten", "training/step.py", '"row_tokens": self.plan.row_tokens, **snapshot.pack}',
          '"row_tokens": self.plan.row_tokens}', "test_memory.py::test_going_on_after_a_step_down_holds_as_little"),
    Break("long run: a file a step stays open", "runs/recorder.py", '        self.step = metrics.step\n',
          "        self.step = metrics.step\n        self.__dict__.setdefault('open', []).append(open('/dev/null'))\n",
          "test_memory.py::test_five_thousand_steps"),
    Break("changed settings: nothing is compared", "runs/changes.py", "or before[name] == value:", "or True:",
          "test_going_on.py::test_every_change_is_applied_or_refused_and_said"),
    Break("order: an older run takes another", "runs/changes.py", 'before = {"batching": BEFORE_ORDERS, **current_settings(before)}', "before = current_settings(before)",
          "test_going_on.py::test_a_run_from_before_there_were_orders"),
    Break("device: not said", "runs/changes.py", "NOT_OF_THE_RUN = (", 'NOT_OF_THE_RUN = ("device", "report_to", ',
          "test_going_on.py::test_device"),
    Break("report_to: said and ignored", "runs/train.py", "log_with=trackers or None", "log_with=None", "test_going_on.py"),
    Break("rows: others are taken", "runs/resume.py", 'if manifest["data"]["digest"] != prepared.rows.digest:', "if False:",
          "test_going_on.py::test_every_change_is_applied_or_refused_and_said"),
    Break("two runs: no lock", "storage/run_lock.py", "                platform.lock(handle)\n            except", "                pass\n            except",
          "test_two_runs.py::test_two_runs_into_one_directory"),
    Break("wrong base: weights are not compared", "model/identity.py", '"digest": base.digest,', '"digest": "",', "test_wrong_bases.py"),
    Break("bad data: no line", "data/json_rows.py", 'yield parse_row(piece, f"{name}:{piece.line}", decoder)', "yield parse_row(piece, name, decoder)",
          "test_rows.py::test_bad_files_and_mutations"),
    Break("bad data: a line too many", "data/lines.py", "        line += 1", "        line += 2",
          "test_rows.py::test_bad_files_and_mutations"),
    Break("templates: a separator in a value", "data/template.py", "        if parsed != sound:\n            raise",
          "        if False:\n            raise", "test_rows.py::test_templates"),
    Break("poison: announced sizes are believed", "model/config_numbers.py",
          "if limit is not None and isinstance(value, int) and value > max(1, limit):", "if False:",
          "test_poison.py::test_no_code_runs"),
    Break("hostile: what is missing is drawn at random", "model/weight_check.py", "        if found:\n", "        if False:\n",
          "test_hostile_folders.py::test_a_base_that_is_not_whole"),
    Break("hostile: the index may name any file", "model/weight_files.py", "if not isinstance(file, str) or not FILE_NAME.fullmatch(file):",
          "if False:", "test_hostile_folders.py::test_an_index_that_leads_elsewhere"),
    Break("hostile: any tokenizer class is taken", "model/tokenizer_loader.py", "            check_class(chosen, name)", "            pass",
          "test_hostile_folders.py::test_code_by_configuration"),
    Break("hostile: attention by configuration", "model/model_config.py", '    "attn_implementation", "_attn', '    "_attn',
          "test_hostile_folders.py::test_code_by_configuration"),
    Break("hostile: numbers are believed", "model/model_config.py", "    check_numbers(what_it_is, name)", "    pass",
          "test_hostile_folders.py::test_numbers_out_of_range"),
    Break('hostile: an adapter may hold anything', 'model/adapter_config.py',
          'if not saved and not MATRIX.fullmatch(name) and not _is_trained_bias(values, name, header):', 'if False:',
          'test_hostile_folders.py::test_an_adapter_that_is_more_or_less_than_lora'),
    Break('hostile: an adapter of NaN', 'model/adapter_loading.py',
          'or not bool(torch.isfinite(tensor).all()):', 'or False:',
          'test_hostile_folders.py::test_an_adapter_that_is_more_or_less_than_lora'),
    Break('hostile: a checkpoint may hold anything', 'model/lora.py',
          'if {name: tensor.shape for name, tensor in state.items()} != mine:', 'if False:',
          'test_hostile_folders.py::test_a_checkpoint_cannot_change_the_base'),
    Break('hostile: a long header is not in the digest', 'model/identity.py',
          'if header_bytes > DIGEST_SLICE_BYTES:', 'if False:',
          'test_hostile_folders.py::test_kinds_and_shapes_of_a_header_beyond_the_first_slice_are_in_the_digest'),
    Break('hostile: words beyond the embedding', 'model/base.py',
          '        check_vocabulary(tokenizer, embedding.weight.shape[0], name)\n', '',
          'test_hostile_folders.py::test_what_is_out_of_bounds'),
    Break('hostile: a panic is no Exception', 'tokens/encode.py',
          '        if not is_panic(error):\n            raise\n', '        raise\n',
          'test_hostile_folders.py::test_a_tokenizer_that_gives_up_on_a_text_says_so'),
    Break('hostile: a log is kept whole', 'storage/json_lines.py',
          'while kept > budget and len(rows) > 1:', 'while False:',
          'test_hostile_folders.py::test_a_log_of_any_length_is_read_within_bounds'),
    Break('hostile: quantised by any library', 'model/model_config.py',
          '    _check_quantization(what_it_is, name)\n', '',
          'test_hostile_folders.py::test_code_by_configuration'),
    Break('hostile: code in a folder', 'model/untrusted.py',
          'if any(key == "auto_map" and value for key, value in entries(values)):', 'if False:',
          'test_hostile_folders.py::test_code_by_configuration'),
    Break('whole: a tied head is missed', 'model/weight_check.py',
          '            missing -= group', '            pass',
          '../model/test_weight_check.py::test_a_whole_model_loads_as_transformers_loads_it'),
    Break('whole: tables are unexpected', 'model/weight_check.py',
          'or not _is_made_anew(name, tensor)', 'or True',
          '../model/test_weight_check.py::test_a_whole_model_loads_as_transformers_loads_it'),
    Break('whole: names need their prefix', 'model/weight_check.py',
          'names = (name, f"{prefix}.{name}", name.removeprefix(f"{prefix}."))', 'names = (name,)',
          '../model/test_weight_check.py::test_a_whole_model_loads_as_transformers_loads_it'),
    Break('screen: paths as they are', 'cli/screen.py',
          'return "".join(c if c == "\\n" or c.isprintable() else " " for c in text)', 'return text',
          '../cli/test_screen.py::test_paths_and_rows_with_escape_sequences'),
    Break('screen: JSON as it is', 'cli/screen.py',
          '"".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in json.dumps(value, ensure_ascii=False))', 'json.dumps(value, ensure_ascii=False)',
          '../cli/test_screen.py::test_json_says_the_same_without_what_a_terminal_obeys'),
    Break('names: not UTF-8', 'storage/paths.py',
          '    if not is_text(name):\n', '    if False:\n',
          '../runs/test_same_place.py::test_a_name_that_is_not_utf8_is_refused_before_anything_is_written'),
    Break('names: another folder in its place', 'storage/same_place.py',
          'if (now.st_dev, now.st_ino) != (self.device, self.inode):', 'if False:',
          '../runs/test_same_place.py::test_a_link_put_there_while_training_is_not_followed'),
    Break('names: checkpoints by a link', 'storage/same_place.py',
          'if is_link(self.folder / part):', 'if False:',
          '../runs/test_same_place.py::test_a_link_put_there_while_training_is_not_followed'),
    Break('secrets: a name is not known', 'errors.py',
          '"_PAT", ', '',
          'test_secrets.py::test_the_usual_names_of_secrets_are_known'),
    Break('secrets: telemetry', '__init__.py',
          'os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")', 'pass',
          'test_secrets.py::test_the_library_sends_nothing_and_fetches_no_kernels'),
    Break('promise: the last adapter is saved', 'runs/finish.py',
          'state = end.best or end.adapter', 'state = end.adapter',
          '../training/test_promises.py::test_the_adapter_saved_is_the_best_one'),
    Break('promise: a step too many in the schedule', 'training/optimizer.py',
          'num_training_steps=num_steps\n', 'num_training_steps=num_steps + 1\n',
          '../training/test_promises.py::test_each_step_has_the_rate_of_transformers_schedule'),
    Break('promise: one seed for all', 'runs/setup.py',
          'torch.manual_seed(prepared.config.seed)', 'torch.manual_seed(0)',
          '../training/test_promises.py::test_another_seed_draws_another_adapter'),
    Break('promise: batches count, not tokens', 'training/step.py',
          'part = losses_N.sum() / num_targets', 'part = losses_N.mean() / len(batches)',
          '../training/test_promises.py::test_a_step_of_eight_is_eight_of_one'),
    Break('promise: no dropout', 'model/lora.py',
          'lora_dropout=config.lora_dropout,', 'lora_dropout=0.0,',
          '../training/test_promises.py::test_dropout_drops'),
    Break("poison: headers of any size are read", "storage/safetensors_io.py", "if length > MAX_HEADER_BYTES:", "if False:",
          "test_poison.py::test_no_code_runs"),
    Break("names: links in a run are followed", "storage/run_lock.py", "        if path.is_symlink():\n            raise",
          "        if False:\n            raise", "test_poison.py::test_names_lead_nowhere"),
    Break("secrets: said", "errors.py", '    text = _TOKEN.sub("***", text)\n', "    return text\n", "test_secrets.py"),
    Break("newcomers: a traceback", "cli/main.py", "if isinstance(error, FlorilegiumError) and not debug:", "if False:", "test_newcomers.py"),
    Break("cost: all tensors are copied", "storage/safetensors_io.py", "    for name in names:\n        plain = tensors[name].detach()",
          "    tensors = {name: t.clone() for name, t in tensors.items()}\n    for name in names:\n        plain = tensors[name].detach()",
          "test_cost.py"),
]
# fmt: on


def seen(what: Break, copy: Path) -> bool:
    """Whether the test goes red in `copy` with this break in it."""
    path = copy / "src" / "florilegium" / what.file
    whole = path.read_text()
    path.write_text(whole.replace(what.old, what.new, 1))
    try:
        environment = {**os.environ, "PYTHONPATH": f"{copy / 'src'}{os.pathsep}{copy}", "PYTHONDONTWRITEBYTECODE": "1"}
        environment.pop("FLORILEGIUM_TORTURE", None)
        command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", f"tests/torture/{what.test}"]
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=600)
        if done.returncode not in (0, 1) or "ModuleNotFoundError" in done.stdout:
            raise RuntimeError(f"{what.name}: nothing was tested: {done.stdout[-1000:]}{done.stderr[-1000:]}")
        return done.returncode == 1
    finally:
        path.write_text(whole)


def main(arguments: Sequence[str]) -> int:
    missed = 0
    with tempfile.TemporaryDirectory(prefix="breaks-") as folder:
        copy = Path(folder) / "florilegium"
        copy.mkdir()
        skip = shutil.ignore_patterns("__pycache__", "*.egg-info")
        for source in ROOT.iterdir():  # `runs` lies here too, and is a room of the package further down
            if not source.name.startswith(".") and source.name not in ("runs", "site", "dist", "build"):
                to = copy / source.name
                shutil.copytree(source, to, ignore=skip) if source.is_dir() else shutil.copy(source, to)
        for what in BREAKS:
            if any(what.name.startswith(name) for name in arguments or [""]):
                began = time.monotonic()
                red = seen(what, copy)
                missed += not red
                print(
                    f"{'red  ' if red else 'GREEN'} {time.monotonic() - began:4.0f} s  {what.name}  ({what.test})",
                    flush=True,
                )
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
