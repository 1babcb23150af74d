"""A run from DATA to an adapter on disk: what `florilegium train` and `florilegium.train` do.

    prepare -> make_ready (adapter, plan, kernels) -> the run's folder -> run_steps -> adapter/, report.html

Until the folder is made nothing is written; from then on, a stop of any kind leaves something to resume
(`runs/resume.py`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from florilegium.config import TrainConfig, as_dict, dump_config, make_config
from florilegium.data import Rows, report_on
from florilegium.errors import ResourceError, UsageError
from florilegium.evaluation import NoveltyIndex
from florilegium.generation import Generated
from florilegium.generation.tuned import Tuned
from florilegium.model import fast_paths as paths
from florilegium.model import save_adapter, set_adapter_state
from florilegium.report import import_soon, write_report
from florilegium.runs.cards import adapter_card
from florilegium.runs.changes import identity
from florilegium.runs.manifest import adapter_facts, initial_manifest
from florilegium.runs.plan_text import say_plan
from florilegium.runs.prepare import Prepared, prepare, sample_prompts
from florilegium.runs.recorder import Recorder, Silent, View
from florilegium.runs.setup import ReadyRun, make_ready, make_trainer
from florilegium.storage.atomic_files import write_json, write_text
from florilegium.storage.paths import tilde, without_home
from florilegium.storage.run_directory import RunDirectory
from florilegium.storage.run_lock import new_run, refuse_taken
from florilegium.training import (
    Snapshot,
    StopRequest,
    check_room,
    interrupted,
    peak_memory,
    run_steps,
    watch,
)


@dataclass(frozen=True)
class Trained:
    """A finished run: its folder, the tuned model still in memory, and its figures (those of manifest.json)."""

    directory: Path
    tuned: Tuned
    figures: dict[str, Any]
    samples: list[Generated]


def train(data: str | Path = "sample", *, view: View | None = None, **settings: Any) -> Trained:
    """Tunes a base on DATA and leaves a run directory; `settings` are the fields of TrainConfig (model=, epochs=,
    bits=, ...).

    Raises UsageError, DataError, ModelError, ResourceError, DivergedError; Interrupted when a signal stopped it, after
    saving."""
    config = make_config({**settings, "data": str(data)})
    return train_config(config, view or Silent())


def train_config(config: TrainConfig, view: View, rows: Rows | None = None) -> Trained:
    """`train` for a config that is made already, with rows that are read already or are read here."""
    config = replace(
        config, data=tilde(config.data), model=tilde(config.model), output=config.output and tilde(config.output)
    )
    refuse_taken(config.output, force=config.force)
    with watch() as stop, paths.compiling_ahead():
        ready = make_ready(prepare(config, view, rows))
        with new_run(config.output, f"{Path(config.data).stem}-{config.model}", force=config.force) as directory:
            run = RunDirectory(directory)
            write_text(run.config, dump_config(ready.plan.config))
            return execute_run(ready, run, view, stop, None)


def execute_run(
    ready: ReadyRun, run: RunDirectory, view: View, stop: StopRequest, snapshot: Snapshot | None
) -> Trained:
    """Takes the steps that are planned, from `snapshot` or from the first, and writes what came of them into the run's
    folder. Raises Interrupted when a signal stopped it, after saving."""
    prepared, plan = ready.prepared, ready.plan
    check_room(run.path, ready.count.trained, plan.config)
    accelerator = _accelerator(plan.config, run.path)
    facts = adapter_facts(prepared)
    tuned = Tuned(prepared.base, ready.model, prepared.rows.template, facts["openings"], _novelty(prepared, run))
    figures = initial_manifest(prepared, plan, ready.count)
    write_json(run.manifest, figures)
    say_plan(view, prepared, plan, ready.count, run.path)
    trainer = make_trainer(ready, accelerator)
    recorder = Recorder(
        run,
        tuned,
        view,
        plan.schedule.num_steps,
        plan.config.log_every,
        plan.config.keep_checkpoints,
        sample_prompts(prepared),
        plan.config.seed,
        identity(figures, plan.config),
        accelerator,
        last_saved=snapshot.progress.step if snapshot else -1,
    )
    if prepared.base.device.type == "cuda":  # on a CPU the training needs every core
        import_soon()
    with stop.deferred():
        end = run_steps(
            trainer, prepared.training.examples, prepared.held_out.examples, plan.schedule, recorder, stop, snapshot
        )
        if stop.number:
            if recorder.last_saved != end.progress.step:
                recorder.save(end)
            raise interrupted(stop.number, f"step {end.progress.step} is saved", f"Type: florilegium resume {run.path}")
        trained = _finish(ready, run, view, tuned, figures, facts, end, recorder)
        stop.what = f"the run is finished and its adapter is in {run.adapter}"
        return trained


def _finish(
    ready: ReadyRun,
    run: RunDirectory,
    view: View,
    tuned: Tuned,
    figures: dict[str, Any],
    facts: dict[str, Any],
    end: Snapshot,
    recorder: Recorder,
) -> Trained:
    """The adapter on disk (the best one seen), and the figures of the run."""
    prepared, config, progress = ready.prepared, ready.plan.config, end.progress
    state = end.best or end.adapter
    if end.best and progress.best_step != progress.step:
        view.say(f"keeping the adapter from step {progress.best_step} (lowest held-out loss)")
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
    write_json(run.manifest, figures)
    card = adapter_card(config, figures, recorder.last_samples(), prepared.base.folder)
    save_adapter(tuned.model, prepared.base, run.adapter, facts, card, state)
    if recorder.accelerator is not None:
        recorder.accelerator.end_training()
    _write_page(prepared, config, run, view)
    return Trained(run.path, tuned, figures, recorder.samples)


def _write_page(prepared: Prepared, config: TrainConfig, run: RunDirectory, view: View) -> None:
    """data.json and report.html. The adapter is on disk by now: a page that finds no room, on
    disk or in memory, takes nothing from it."""
    found = json.dumps(
        report_on(prepared.rows, prepared.split, config.held_out, config.seed, config.split_by), ensure_ascii=False
    )
    try:
        # Places name files, and files lie in somebody's home folder.
        write_text(run.data_report, without_home(found) + "\n")
        view.say(f"report   {write_report(run.path)}")
    except (ResourceError, ImportError, MemoryError, RuntimeError) as error:
        view.say(f"report   not written: {error}; later: florilegium report {run.path}")


def _accelerator(config: TrainConfig, directory: Path) -> Any:
    from accelerate import Accelerator

    trackers = [n.strip() for n in config.report_to.split(",") if n.strip() not in ("none", "")]
    accelerator = Accelerator(cpu=config.device == "cpu", log_with=trackers or None, project_dir=str(directory))
    if len(accelerator.log_with) < len(set(trackers)):  # it passes over those that it cannot use
        raise UsageError(
            f"--report-to {config.report_to}: Accelerate cannot use all of them",
            "Leave it out, or reinstall them",
        )
    if trackers:
        plain = {k: v for k, v in as_dict(config).items() if isinstance(v, (int, float, str, bool))}
        accelerator.init_trackers("florilegium", config=plain)
    return accelerator


def _novelty(prepared: Prepared, run: RunDirectory) -> NoveltyIndex:
    first = prepared.rows.template.main_column
    index = NoveltyIndex.from_texts(str(quote[first]) for quote in prepared.training_quotes)
    index.save(run.training_ngrams)
    return index
