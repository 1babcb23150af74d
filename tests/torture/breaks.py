"""A test that cannot fail is none: each guard broken on purpose, and the torture test that must see it.

    python -m tests.torture.breaks            # all of them: half an hour
    python -m tests.torture.breaks signals    # those whose name begins so

Each break is an edit of one place in a copy of the repository; the test runs there, in CI's share, and has to go red, where
it is green without the break. BREAKS.md keeps which of them were seen, when and at which commit; test_breaks.py holds that
the places are still in the code and that every break was seen.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.torture.figures import head

ROOT = Path(__file__).parent.parent.parent
RECORD = Path(__file__).parent / "BREAKS.md"
SECONDS = 900.0  # for one break's test; a break that makes it wait for ever is seen then


@dataclass(frozen=True)
class Break:
    name: str
    file: str  # in src/florilegium
    old: str
    new: str
    test: str  # in tests/torture


# By file in src/florilegium: name, the test that must go red (in tests/torture), what stands there, what stands there instead.
# fmt: off
TABLE = {
    "training/trainer.py": [
        ('kill -9: the random states are not restored', 'test_commit.py::test_kills_at_random_times',
         'set_random_states(snapshot.random, self.device)',
         'pass'),
        ('memory: the step down is forgotten', 'test_memory.py::test_going_on_after_a_step_down_holds_as_little',
         '"row_tokens": self.plan.row_tokens, **snapshot.pack}',
         '"row_tokens": self.plan.row_tokens}'),
    ],
    "training/step.py": [
        ("no number: a step's loss is not looked at", 'test_numbers.py::test_no_number_at_any_step',
         '        check_step(host.number, loss, grad_norm)\n',
         ''),
        ('no number: a step that has none is taken', '../training/test_training.py::test_a_step_that_holds_none_moves_nothing',
         '        trainer.optimizer.zero_grad(set_to_none=not kept)\n        return',
         '        pass'),
        ('promise: batches count, not tokens', '../training/test_promises.py::test_a_step_of_eight_is_eight_of_one',
         'part = losses_N.sum() / num_targets',
         'part = losses_N.mean() / len(batches)'),
    ],
    "training/checkpoint.py": [
        ('nth operation: the older ones go before the newer is there', 'test_commit.py::test_death_at_every_operation_of_a_save',
         '    try:\n        _commit(final, snapshot, json',
         '    _rotate(folder, final, 1)\n    try:\n        _commit(final, snapshot, json'),
        ('another run: its checkpoint is taken', 'test_commit.py::test_a_checkpoint_of_another_run_is_not_taken',
         'for name in IDENTITY if whose else ():',
         'for name in ():'),
        ('no number: what is saved is not looked at', 'test_numbers.py::test_no_number_at_any_step',
         '    check_snapshot(snapshot.progress.step,',
         '    (lambda *a: None)(snapshot.progress.step,'),
        ('memory: a save without memory is a traceback', 'test_memory.py::test_steps_down',
         'except (MemoryError, RuntimeError) as error:',
         'except RuntimeError as error:'),
    ],
    "storage/atomic_folders.py": [
        ('nth operation: a folder is built under its final name', 'test_commit.py::test_death_at_every_operation_of_a_save',
         'os.rename(temporary, final)\n        except',
         'os.rename(temporary, final); os.unlink(final / manifest)\n        except'),
        ('power cut: the parent is not flushed', 'test_commit.py::test_power_cuts',
         '        sync_folder(final.parent)',
         '        pass'),
        ('damage: sums are not compared', 'test_commit.py::test_damage_of_every_kind',
         'if hashlib.sha256(data).hexdigest() != entry["sha256"]:',
         'if False:'),
    ],
    "storage/atomic_files.py": [
        ('power cut: files are not flushed', 'test_commit.py::test_power_cuts',
         '        yield Output(handle)\n        os.fsync(handle)',
         '        yield Output(handle)'),
        ('full disk: needed and free are not said', 'test_full_disk.py',
         '            no_room_fix(path, room.needed)\n            if error.errno in NO_ROOM\n            else',
         '           '),
    ],
    "runs/train.py": [
        ('signals: the work is not saved', 'test_signals.py::test_signals_at_every_stage',
         'recorder.save(end)',
         'pass'),
        ('report_to: said and ignored', 'test_going_on.py',
         'log_with=trackers or None',
         'log_with=None'),
    ],
    "signals.py": [
        ('signals: the step is not finished', 'test_signals.py::test_signals_at_every_stage',
         'if not self.deferring:',
         'if True:'),
        ('signals: a second Ctrl-C waits', 'test_signals.py::test_a_second_ctrl_c_ends_at_once_and_what_is_on_disk_is_whole',
         'signal.signal(signal.SIGINT, signal.SIG_DFL)',
         'pass'),
    ],
    "storage/library_errors.py": [
        ('memory: what ran out is not known', 'test_memory.py::test_steps_down',
         '"can\'t allocate memory",',
         ''),
    ],
    "generation/generate.py": [
        ('memory: sampling does not step down', '../generation/test_generation.py::test_where_memory_runs_out_fewer_rows_are_written_at_once',
         'if len(requests) == 1 or not is_out_of_memory(error):',
         'if True:'),
        ('memory: a token comes twice', '../generation/test_generation.py::test_where_memory_runs_out_fewer_rows_are_written_at_once',
         'if seen[written.request] > sent[begin + written.request]:',
         'if True:'),
    ],
    "training/loop.py": [
        ('memory: gradients of the failed try stay', 'test_memory.py::test_steps_down',
         'trainer.optimizer.zero_grad(set_to_none=trainer.replay is None)',
         'pass'),
    ],
    "runs/recorder.py": [
        ('long run: a file a step stays open', 'test_memory.py::test_five_thousand_steps',
         '        self.step = metrics.step\n',
         "        self.step = metrics.step\n        self.__dict__.setdefault('open', []).append(open('/dev/null'))\n"),
    ],
    "runs/changes.py": [
        ('changed settings: nothing is compared', 'test_going_on.py::test_every_change_is_applied_or_refused_and_said',
         'or before[name] == value:',
         'or True:'),
        ('order: an older run takes another', 'test_going_on.py::test_a_run_from_before_there_were_orders',
         'before = settings_of_run(before)',
         'before = {"direction": "quote", **current_settings(before)}'),
        ('device: not said', 'test_going_on.py::test_device',
         'NOT_OF_THE_RUN = (',
         'NOT_OF_THE_RUN = ("device", "report_to", '),
    ],
    "runs/resume.py": [
        ('rows: others are taken', 'test_going_on.py::test_every_change_is_applied_or_refused_and_said',
         'if manifest["data"]["digest"] != prepared.rows.digest:',
         'if False:'),
    ],
    "storage/run_lock.py": [
        ('two runs: no lock', 'test_two_runs.py::test_two_runs_into_one_directory',
         '                platform.lock(handle)\n            except',
         '                pass\n            except'),
        ('names: links in a run are followed', 'test_poison.py::test_names_lead_nowhere',
         '        if path.is_symlink():\n            raise',
         '        if False:\n            raise'),
    ],
    "model/identity.py": [
        ('wrong base: weights are not compared', 'test_wrong_bases.py',
         '"digest": base.digest,',
         '"digest": "",'),
        ('hostile: a long header is not in the digest', 'test_hostile_folders.py::test_kinds_and_shapes_of_a_header_beyond_the_first_slice_are_in_the_digest',
         'if header_bytes > DIGEST_SLICE_BYTES:',
         'if False:'),
    ],
    "data/json_rows.py": [
        ('bad data: no line', 'test_rows.py::test_bad_files_and_mutations',
         'yield parse_row(piece, f"{name}:{piece.line}", decoder)',
         'yield parse_row(piece, name, decoder)'),
    ],
    "data/lines.py": [
        ('bad data: a line too many', 'test_rows.py::test_bad_files_and_mutations',
         '        line += 1',
         '        line += 2'),
    ],
    "data/template.py": [
        ('templates: a separator in a value', 'test_rows.py::test_templates',
         '        if parsed != sound:\n            raise',
         '        if False:\n            raise'),
    ],
    "model/config_numbers.py": [
        ('poison: announced sizes are believed', 'test_hostile_folders.py::test_sizes_that_no_tensor_shows_are_refused_before_an_outline_is_made',
         'if limit is not None and isinstance(value, int) and value > max(1, limit):',
         'if False:'),
    ],
    "model/weight_check.py": [
        ('hostile: what is missing is drawn at random', 'test_hostile_folders.py::test_a_base_that_is_not_whole',
         '        if found:\n',
         '        if False:\n'),
        ('whole: a tied head is missed', '../model/test_weight_check.py::test_a_whole_model_loads_as_transformers_loads_it',
         '            missing -= group',
         '            pass'),
        ('whole: tables are unexpected', '../model/test_weight_check.py::test_a_whole_model_loads_as_transformers_loads_it',
         'or not _is_made_anew(name, tensor)',
         'or True'),
        ('whole: names need their prefix', '../model/test_weight_check.py::test_a_whole_model_loads_as_transformers_loads_it',
         'names = (name, f"{prefix}.{name}", name.removeprefix(f"{prefix}."))',
         'names = (name,)'),
        ('hostile: said to be quantised', 'test_hostile_folders.py::test_a_base_that_is_not_whole',
         '        if plain:\n',
         '        if False:\n'),
    ],
    "model/weight_files.py": [
        ('hostile: the index may name any file', 'test_hostile_folders.py::test_an_index_that_leads_elsewhere',
         'if not isinstance(file, str) or not FILE_NAME.fullmatch(file):',
         'if False:'),
    ],
    "model/tokenizer_loader.py": [
        ('hostile: any tokenizer class is taken', 'test_hostile_folders.py::test_code_by_configuration',
         '            check_class(chosen, name)',
         '            pass'),
        ('hostile: a frame beyond the embedding', 'test_hostile_folders.py::test_what_is_out_of_bounds',
         'if framed >= embedding_rows:',
         'if False:'),
    ],
    "model/model_config.py": [
        ('hostile: attention by configuration', 'test_hostile_folders.py::test_code_by_configuration',
         '    "attn_implementation", "_attn',
         '    "_attn'),
        ('hostile: numbers are believed', 'test_hostile_folders.py::test_numbers_out_of_range',
         '    check_numbers(what_it_is, name)',
         '    pass'),
        ('hostile: quantised by any library', 'test_hostile_folders.py::test_code_by_configuration',
         '    _check_quantization(what_it_is, name)\n',
         ''),
    ],
    "model/adapter_config.py": [
        ('hostile: an adapter may hold anything', 'test_hostile_folders.py::test_an_adapter_that_is_more_or_less_than_lora',
         'if not saved and not MATRIX.fullmatch(name) and not _is_trained_bias(values, name, header):',
         'if False:'),
    ],
    "model/adapter_loading.py": [
        ('hostile: an adapter of NaN', 'test_hostile_folders.py::test_an_adapter_that_is_more_or_less_than_lora',
         '        if not bool(torch.isfinite(tensor).all()):',
         '        if False:'),
        ('hostile: facts that are a FIFO', 'test_hostile_folders.py::test_an_adapter_that_is_more_or_less_than_lora',
         'if not os.path.lexists(folder / FACTS):',
         'if not (folder / FACTS).is_file():'),
    ],
    "model/lora.py": [
        ('hostile: a checkpoint may hold anything', 'test_hostile_folders.py::test_a_checkpoint_cannot_change_the_base',
         'if {name: tensor.shape for name, tensor in state.items()} != mine:',
         'if False:'),
        ('promise: no dropout', '../training/test_promises.py::test_dropout_drops',
         'lora_dropout=config.lora_dropout,',
         'lora_dropout=0.0,'),
        ('several chat templates: the adapter is lost', 'test_hostile_folders.py::test_a_tokenizer_with_several_chat_templates_is_saved',
         ' if path.is_file()}',
         '}'),
    ],
    "model/base.py": [
        ('hostile: words beyond the embedding', 'test_hostile_folders.py::test_what_is_out_of_bounds',
         '        check_vocabulary(tokenizer, embedding.weight.shape[0], name)\n',
         ''),
    ],
    "tokens/encode.py": [
        ('hostile: a panic is no Exception', 'test_hostile_folders.py::test_a_tokenizer_that_gives_up_on_a_text_says_so',
         '        if not is_panic(error):\n            raise\n',
         '        raise\n'),
    ],
    "storage/json_lines.py": [
        ('hostile: a log is kept whole', 'test_hostile_folders.py::test_a_log_of_any_length_is_read_within_bounds',
         'while kept > budget and len(rows) > 1:',
         'while False:'),
    ],
    "model/untrusted.py": [
        ('hostile: facts of any format', 'test_hostile_folders.py::test_an_adapter_that_is_more_or_less_than_lora',
         '    if number > newest:\n',
         '    if False:\n'),
        ('hostile: code in a folder', 'test_hostile_folders.py::test_code_by_configuration',
         'if any(key == "auto_map" and value for key, value in entries(values)):',
         'if False:'),
    ],
    "cli/screen.py": [
        ('screen: paths as they are', '../cli/test_screen.py::test_paths_and_rows_with_escape_sequences',
         'return "".join(c if c == "\\n" or c.isprintable() else " " for c in text)',
         'return text'),
        ('screen: JSON as it is', '../cli/test_screen.py::test_json_says_the_same_without_what_a_terminal_obeys',
         '"".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in json.dumps(value, ensure_ascii=False))',
         'json.dumps(value, ensure_ascii=False)'),
    ],
    "storage/paths.py": [
        ('names: not UTF-8', '../runs/test_same_place.py::test_a_name_that_is_not_utf8_is_refused_before_anything_is_written',
         '    if not is_text(name):\n',
         '    if False:\n'),
    ],
    "storage/same_place.py": [
        ('names: another folder in its place', '../runs/test_same_place.py::test_a_link_put_there_while_training_is_not_followed',
         'if (now.st_dev, now.st_ino) != (self.device, self.inode):',
         'if False:'),
        ('names: checkpoints by a link', '../runs/test_same_place.py::test_a_link_put_there_while_training_is_not_followed',
         'if is_link(self.folder / part):',
         'if False:'),
    ],
    "errors.py": [
        ('secrets: a name is not known', 'test_secrets.py::test_the_usual_names_of_secrets_are_known',
         '"_PAT", ',
         ''),
        ('secrets: said', 'test_secrets.py',
         '    text = _TOKEN.sub("***", text)\n',
         '    return text\n'),
    ],
    "__init__.py": [
        ('secrets: telemetry', 'test_secrets.py::test_the_library_sends_nothing_and_fetches_no_kernels',
         'os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")',
         'pass'),
    ],
    "runs/finish.py": [
        ('promise: the last adapter is saved', '../training/test_promises.py::test_the_adapter_saved_is_the_best_one',
         'state = end.best or end.adapter',
         'state = end.adapter'),
    ],
    "training/optimizer.py": [
        ('promise: a step too many in the schedule', '../training/test_promises.py::test_each_step_has_the_rate_of_transformers_schedule',
         'num_training_steps=num_steps\n',
         'num_training_steps=num_steps + 1\n'),
    ],
    "runs/setup.py": [
        ('promise: one seed for all', '../training/test_promises.py::test_another_seed_draws_another_adapter',
         'torch.manual_seed(prepared.config.seed)',
         'torch.manual_seed(0)'),
    ],
    "storage/safetensors_io.py": [
        ('poison: headers of any size are read', 'test_poison.py::test_no_code_runs',
         'if length > MAX_HEADER_BYTES:',
         'if False:'),
        ('cost: all tensors are copied', 'test_cost.py',
         '    for name in names:\n        plain = tensors[name].detach()',
         '    tensors = {name: t.clone() for name, t in tensors.items()}\n    for name in names:\n        plain = tensors[name].detach()'),
        ('hostile: tensors on one another', 'test_hostile_folders.py::test_tensors_on_one_another_are_seen_before_a_library_reads_them',
         'if begin != end or stop < begin:',
         'if False:'),
    ],
    "cli/main.py": [
        ('panic: a traceback', '../cli/test_native_failures.py::test_a_panic_anywhere_is_one_line',
         '    elif is_panic(error):\n',
         '    elif False:\n'),
        ('memory: where nobody expects it', '../cli/test_native_failures.py::test_a_full_memory_anywhere_says_what_was_wanted',
         '(ran_out_of_memory(error) or _is_out_of_addresses(error))',
         'False'),
        ('newcomers: a traceback', 'test_newcomers.py',
         'if isinstance(error, FlorilegiumError) and not debug:',
         'if False:'),
    ],
    "storage/strict_json.py": [
        ('hostile: a name stands twice', 'test_hostile_folders.py::test_numbers_out_of_range',
         'if len(found) != len(pairs):',
         'if False:'),
    ],
    "model/tokenizer_rules.py": [
        ('hostile: a letter becomes a megabyte', 'test_hostile_folders.py::test_what_is_out_of_bounds',
         'if math.prod(map(_growth, rules)) > MAX_GROWTH:',
         'if False:'),
    ],
    "cli/loading.py": [
        ('memory: libraries without room', '../cli/test_native_failures.py::test_too_few_addresses_for_the_libraries',
         'if limit is not None and limit < LIBRARIES_BYTES:',
         'if False:'),
    ],
    "storage/native_stderr.py": [
        ('panic: its own lines are shown', '../storage/test_native_stderr.py::test_ours_pass_and_theirs_do_not',
         '        os.dup2(nowhere, _STDERR)\n',
         ''),
    ],
    "data/arrow_rows.py": [
        ('damage: offsets of an Arrow file are believed', '../data/test_arrow_damage.py::test_no_damage_ends_the_process',
         '(_sound(batch.select(wanted)) for',
         '(batch.select(wanted) for'),
        ('bad data: nulls without end', '../data/test_packed_size.py::test_memory_is_bounded',
         '                refuse_empty_rows(',
         '                (lambda *a: None)('),
    ],
    "data/arrow_messages.py": [
        ('bad data: an Arrow buffer may announce anything', '../data/test_packed_size.py::test_memory_is_bounded',
         'if unpacked > FREE_BYTES + MAX_COMPRESSION * packed or max(packed, unpacked) > MAX_BATCH_BYTES:',
         'if False:'),
        ('bad data: an Arrow message leads beyond its file', '../data/test_arrow_damage.py::test_a_body_of_a_terabyte_is_not_asked_for',
         'if not 0 <= message.body_bytes <= end - message.body_at:',
         'if False:'),
    ],
    "data/unpack.py": [
        ('bad data: a packed file of gigabytes', '../data/test_packed_size.py::test_memory_is_bounded',
         'if len(data) > MAX_WHOLE_BYTES:',
         'if False:'),
    ],
}
# fmt: on
BREAKS = [Break(name, file, old, new, test) for file, rows in TABLE.items() for name, test, old, new in rows]


def import_libraries() -> None:
    """What takes seconds to import and is none of ours: a process forked off this one has it at once."""
    import bitsandbytes  # noqa: F401
    import peft  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import transformers.models.bloom.modeling_bloom  # noqa: F401


def run_pytest(copy: Path, arguments: list[str]) -> int:
    """In the forked process: the tests of `copy`, with the `florilegium` of `copy`."""
    os.chdir(copy)
    for name in [name for name in sys.modules if name.split(".")[0] in ("tests", "florilegium")]:
        del sys.modules[name]
    roots = [str(copy / "src"), str(copy)]
    sys.path[:] = roots + [path for path in sys.path if path and not Path(path).is_relative_to(ROOT)]
    os.environ["PYTHONPATH"] = os.pathsep.join(roots)
    os.environ.pop("FLORILEGIUM_TORTURE", None)
    import florilegium

    assert Path(str(florilegium.__file__)).is_relative_to(copy)
    return int(pytest.main(arguments))


def run_tests(copy: Path, tests: Sequence[str], seconds: float, *options: str) -> tuple[int | None, str]:
    """pytest's exit code for these tests in `copy` (None: they did not end in time) and what it printed."""
    paths = [os.path.normpath(f"tests/torture/{test}") for test in tests]
    with tempfile.TemporaryFile() as output:
        if not (child := os.fork()):
            os.setsid()
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            code = 3
            try:
                code = run_pytest(copy, ["-p", "no:cacheprovider", "--tb=short", *options, *paths])
            finally:
                sys.stdout.flush()
                os._exit(code)
        deadline, done = time.monotonic() + seconds, 0
        while not done and time.monotonic() < deadline:
            time.sleep(0.05)
            done, status = os.waitpid(child, os.WNOHANG)
        if not done:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
        output.seek(0)
        return os.waitstatus_to_exitcode(status) if done else None, output.read().decode(errors="replace")


def write(path: Path, code: str) -> None:
    """Without its compiled form, which is told from a newer file by whole seconds and the size alone."""
    path.write_text(code)
    Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)


def seen(what: Break, copy: Path) -> str:
    """What the test said against this break in `copy`; an empty string where it stayed green."""
    path = copy / "src" / "florilegium" / what.file
    whole = path.read_text()
    write(path, whole.replace(what.old, what.new, 1))
    try:
        code, said = run_tests(copy, [what.test], SECONDS, "-x")
    finally:
        write(path, whole)
    if code not in (None, 0, 1) or "ModuleNotFoundError" in said:
        raise RuntimeError(f"{what.name}: nothing was tested: {said[-2000:]}")
    reasons = [line[1:].strip() for line in said.splitlines() if line.startswith("E  ")]
    return "" if code == 0 else "it does not end" if code is None else next(iter(reasons), "it fails")[:160]


def red_without_a_break(copy: Path, tests: Sequence[str]) -> list[str]:
    """Tests that fail in the copy as it is: what they say of a break is worth nothing."""
    code, said = run_tests(copy, tests, SECONDS * len(tests))
    if code not in (0, 1):
        raise RuntimeError(f"nothing was tested: {said[-2000:]}")
    return [line for line in said.splitlines() if line.startswith(("FAILED", "ERROR"))]


def copied(folder: Path) -> Path:
    """The repository as it lies here, without what is hidden and what was made in it."""
    copy = folder / "florilegium"
    copy.mkdir()
    skip = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for source in ROOT.iterdir():  # `runs` lies here too, and is a room of the package further down
        if not source.name.startswith(".") and source.name not in ("runs", "site", "dist", "build"):
            to = copy / source.name
            shutil.copytree(source, to, ignore=skip) if source.is_dir() else shutil.copy(source, to)
    return copy


def recorded() -> dict[str, str]:
    """The lines of BREAKS.md by the break's name."""
    lines = RECORD.read_text(encoding="utf-8").splitlines() if RECORD.is_file() else []
    return {line.split(" | ")[0].removeprefix("| "): line for line in lines if line.startswith("| ")}


def record(reds: Mapping[str, bool], at: str) -> None:
    """Writes into BREAKS.md which breaks were seen (a green one leaves it); the others stay as they are."""
    lines = recorded()
    for what in BREAKS:
        if what.name in reds:
            test = os.path.normpath(f"tests/torture/{what.test}")
            lines[what.name] = f"| {what.name} | `{what.file}` | `{test}` | {at} |" if reds[what.name] else ""
    kept = [line for what in BREAKS if (line := lines.get(what.name))]
    RECORD.write_text("\n".join([HEAD.format(seen=len(kept), all=len(BREAKS)), *kept]) + "\n", encoding="utf-8")


HEAD = """## Broken on purpose, and seen

Written by `python -m tests.torture.breaks`; do not edit. Each line is a place of the program that was broken in a copy, and
the test that went red by it: {seen} of {all}.

| what was broken | in `src/florilegium` | the test that saw it | run at |
|---|---|---|---|"""


def main(arguments: Sequence[str]) -> int:
    chosen = [what for what in BREAKS if any(what.name.startswith(name) for name in arguments or [""])]
    reds: dict[str, bool] = {}
    import_libraries()
    with tempfile.TemporaryDirectory(prefix="breaks-") as folder:
        copy = copied(Path(folder))
        if spoilt := red_without_a_break(copy, sorted({what.test for what in chosen})):
            print(*spoilt, "red without any break: mend these first", sep="\n")
            return 1
        for what in chosen:
            began = time.monotonic()
            reason = seen(what, copy)
            reds[what.name] = bool(reason)
            record(reds, f"{time.strftime('%Y-%m-%d')}, {head()}")
            took = time.monotonic() - began
            print(f"{'red  ' if reason else 'GREEN'} {took:4.0f} s  {what.name}  ({what.test})  {reason}", flush=True)
    print(f"{sum(reds.values())} of {len(chosen)} red")
    return 0 if all(reds.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
