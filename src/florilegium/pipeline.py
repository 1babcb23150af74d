"""The whole walk, from DATA to an adapter on disk: what `florilegium train` and `florilegium.train` do.

    prepare -> (the folder of the run) -> attach_adapter -> fast.install -> run_steps -> adapter/

`prepare` writes nothing; from the folder on, a stop of any kind leaves something to go on from.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from florilegium.config import TrainConfig, as_dict, dump_config, make_config, read_config
from florilegium.data import Rows, report_on
from florilegium.errors import DataError, ModelError, UsageError
from florilegium.evaluation import NoveltyIndex
from florilegium.evaluation.novelty import FILE as NGRAMS
from florilegium.export import adapter_card
from florilegium.generation import Generated
from florilegium.manifest import adapter_facts, figures_before, say_plan
from florilegium.model import attach_adapter, base_facts, count_parameters, save_adapter, set_adapter_state
from florilegium.prepare import Prepared, prepare, sample_prompts
from florilegium.recorder import CHECKPOINTS, Recorder, Silent, View, forget_after
from florilegium.report import write_report
from florilegium.run import RUNS, find_run, locked, new_run_directory, write_json, write_text
from florilegium.setting_up import make_trainer, set_up
from florilegium.training import (
    Snapshot,
    StopRequest,
    interrupted,
    load_checkpoint,
    make_schedule_numbers,
    newest_whole,
    peak_memory,
    run_steps,
    watch,
)
from florilegium.tuned import Tuned


@dataclass(frozen=True)
class Trained:
    """A finished run: its folder, the tuned model still in memory, and its figures (those of manifest.json)."""

    directory: Path
    tuned: Tuned
    figures: dict[str, Any]
    samples: list[Generated]


def train(data: str | Path = "sample", *, view: View | None = None, **settings: Any) -> Trained:
    """Tunes a base on DATA and leaves a run directory; `settings` are the fields of TrainConfig (model=, epochs=, bits=, ...).

    Raises UsageError, DataError, ModelError, ResourceError, DivergedError; Interrupted when a signal stopped it, after saving.
    """
    config = make_config({**settings, "data": str(data)})
    return train_config(config, view or Silent())


def train_config(config: TrainConfig, view: View, rows: Rows | None = None) -> Trained:
    """`train` for a config that is made already, with rows that are read already or are read here."""
    with watch() as stop:
        prepared = prepare(config, view, rows)
        config = prepared.config
        directory = new_run_directory(config.output, f"{Path(config.data).stem}-{config.model}", force=config.force)
        with locked(directory):
            write_text(directory / "config.yaml", dump_config(config))
            return _run(prepared, directory, view, stop, None)


def resume(run: str | Path = "latest", *, view: View | None = None) -> Trained:
    """Goes on with a run that was stopped, from its newest whole checkpoint, to the same bits as if it had not been.

    Raises UsageError when there is nothing to go on with, DataError or ModelError when rows or base are others than before.
    """
    view = view or Silent()
    directory = _unfinished(str(run))
    config = make_config(read_config(directory / "config.yaml"), source=str(directory / "config.yaml"))
    with watch() as stop, locked(directory):
        if (directory / "adapter" / "adapter_config.json").is_file():
            raise UsageError(f"{directory} is finished", f"Use it: florilegium generate --run {directory}")
        prepared = prepare(config, view)
        if (directory / "manifest.json").is_file():
            _check_same(json.loads((directory / "manifest.json").read_text(encoding="utf-8")), prepared, directory)
        checkpoint, skipped = newest_whole(directory / CHECKPOINTS)
        for line in skipped:
            view.say(line)
        snapshot = load_checkpoint(checkpoint) if checkpoint else None
        step = snapshot.progress.step if snapshot else 0
        view.say(f"going on from step {step}" if checkpoint else "no whole checkpoint: starting at step 0")
        forget_after(directory, step if snapshot else -1)
        return _run(prepared, directory, view, stop, snapshot)


def _unfinished(run: str) -> Path:
    """The run to go on with; `latest` is the newest that has no adapter yet."""
    if run == "latest":
        waiting = [p.parent for p in RUNS.glob("*/config.yaml") if not (p.parent / "adapter").is_dir()]
        if not waiting:
            raise UsageError("no run in runs/ is waiting to go on", "Name one: florilegium resume runs/NAME")
        return max(waiting, key=lambda p: (p / "config.yaml").stat().st_mtime)
    directory = find_run(run)
    if not (directory / "config.yaml").is_file():
        raise UsageError(f"{directory} is not a run: it has no config.yaml", "Name a folder that `florilegium train` made")
    return directory


def _check_same(manifest: dict[str, Any], prepared: Prepared, directory: Path) -> None:
    if manifest["data"]["digest"] != prepared.rows.digest:
        raise DataError(f"the rows of {prepared.config.data} are others than when {directory} began", "Bring them back, or train anew")
    if manifest["base"] != base_facts(prepared.base):
        raise ModelError(f"the base {prepared.config.model} is another than when {directory} began", "Bring it back, or train anew")


def _run(prepared: Prepared, directory: Path, view: View, stop: StopRequest, snapshot: Snapshot | None) -> Trained:
    config, base = prepared.config, prepared.base
    accelerator = _accelerator(config, directory)
    torch.manual_seed(config.seed)  # before the adapter exists: same seed, same bits
    model = attach_adapter(base, config)
    forecast = set_up(prepared, model)
    count = count_parameters(model)
    schedule = make_schedule_numbers(len(prepared.training.examples), config)
    facts = adapter_facts(prepared)
    tuned = Tuned(base, model, prepared.rows.template, facts["openings"], _novelty(prepared, directory))
    figures = figures_before(prepared, count, schedule)
    write_json(directory / "manifest.json", figures)
    say_plan(view, prepared, count, schedule, directory, forecast)
    trainer = make_trainer(prepared, model, accelerator, schedule, forecast)
    recorder = Recorder(
        directory,
        tuned,
        view,
        schedule.num_steps,
        config.log_every,
        config.keep_checkpoints,
        sample_prompts(prepared),
        config.seed,
        accelerator,
        last_saved=snapshot.progress.step if snapshot else -1,
    )
    with stop.deferred():
        end = run_steps(trainer, prepared.training.examples, prepared.held_out.examples, schedule, recorder, stop, snapshot)
        if stop.number:
            if recorder.last_saved != end.progress.step:
                recorder.save(end)
            raise interrupted(stop.number, f"step {end.progress.step} is saved", f"Type: florilegium resume {directory}")
        return _finish(prepared, directory, view, tuned, figures, facts, end, recorder)


def _finish(
    prepared: Prepared,
    directory: Path,
    view: View,
    tuned: Tuned,
    figures: dict[str, Any],
    facts: dict[str, Any],
    end: Snapshot,
    recorder: Recorder,
) -> Trained:
    """The adapter on disk (the best one seen), and the figures of the run."""
    progress = end.progress
    state = end.best or end.adapter
    if end.best and progress.best_step != progress.step:
        view.say(f"the best adapter was that of step {progress.best_step}: it is the one that is kept")
        set_adapter_state(tuned.model, end.best)
    figures |= {
        "steps": progress.step,
        "tokens": progress.tokens,
        "elapsed_seconds": round(progress.elapsed_seconds, 2),
        "tokens_per_second": round(progress.tokens / max(progress.elapsed_seconds, 1e-9), 1),
        "peak_memory_bytes": peak_memory(prepared.base.device),
        "eval_loss_before": progress.first_eval_loss,
        "eval_loss": progress.best_loss,
        "best_step": progress.best_step,
    }
    write_json(directory / "manifest.json", figures)
    card = adapter_card(prepared.config, figures, [row.text for row in recorder.samples])
    save_adapter(tuned.model, prepared.base, directory / "adapter", facts, card, state)
    if recorder.accelerator is not None:
        recorder.accelerator.end_training()
    split_by = prepared.config.split_by
    write_json(directory / "data.json", report_on(prepared.rows, prepared.split, prepared.config.held_out, prepared.config.seed, split_by))
    view.say(f"report   {write_report(directory)}")
    return Trained(directory, tuned, figures, recorder.samples)


def _accelerator(config: TrainConfig, directory: Path) -> Any:
    from accelerate import Accelerator

    trackers = [n.strip() for n in config.report_to.split(",") if n.strip() not in ("none", "")]
    accelerator = Accelerator(cpu=config.device == "cpu", log_with=trackers or None, project_dir=str(directory))
    if trackers:
        plain = {k: v for k, v in as_dict(config).items() if isinstance(v, (int, float, str, bool))}
        accelerator.init_trackers("florilegium", config=plain)
    return accelerator


def _novelty(prepared: Prepared, directory: Path) -> NoveltyIndex:
    first = prepared.rows.template.main_column
    index = NoveltyIndex.from_texts(str(quote[first]) for quote in prepared.training_quotes)
    index.save(directory / NGRAMS)
    return index
