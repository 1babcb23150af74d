"""A run from DATA to an adapter on disk: what `florilegium train` and `florilegium.train` do.

    prepare -> make_ready (adapter, plan, kernels) -> the run's folder -> run_steps -> adapter/, report.html

Until the folder is made nothing is written; from then on, a stop of any kind leaves something to resume
(`runs/resume.py`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from florilegium.config import TrainConfig, as_dict, current_settings, dump_config, make_config
from florilegium.data import Rows
from florilegium.errors import DataError, DivergedError, ModelError, UsageError
from florilegium.evaluation import NoveltyIndex
from florilegium.generation.tuned import Tuned
from florilegium.model import check_bits, fast_paths
from florilegium.model.card_memory import memory_limit
from florilegium.report import import_in_background
from florilegium.runs.changes import identity
from florilegium.runs.finish import Trained, finish
from florilegium.runs.follow import follow, naming_what_is_saved
from florilegium.runs.launcher import one_training_at_a_time, without_launcher
from florilegium.runs.manifest import adapter_facts, initial_manifest
from florilegium.runs.plan_text import say_plan
from florilegium.runs.prepare import Prepared, prepare, sample_prompts
from florilegium.runs.previous_rows import forgotten, loss_on, read_previous_rows
from florilegium.runs.processes import card_room, refuse_alone
from florilegium.runs.recorder import NullView, ProgressView, Recorder
from florilegium.runs.samples import Samples, shared_by
from florilegium.runs.setup import ReadyRun, make_ready, make_trainer
from florilegium.runs.start_from import inherited_settings
from florilegium.storage.atomic_files import write_json, write_text
from florilegium.storage.paths import is_text, quoted, tilde
from florilegium.storage.run_directory import RunDirectory
from florilegium.storage.run_lock import new_run, refuse_taken
from florilegium.training import (
    ALONE,
    Distributed,
    SharedStop,
    Snapshot,
    StopRequest,
    check_room,
    interrupted,
    joined,
    peak_memory,
    run_steps,
    watch,
)

if TYPE_CHECKING:
    from accelerate import Accelerator


def train(data: str | Path | None = None, *, view: ProgressView | None = None, **settings: Any) -> Trained:
    """Tunes a base on DATA and leaves a run directory; `settings` are the fields of TrainConfig (model=, epochs=,
    bits=, ...).

    Raises UsageError, DataError, ModelError, ResourceError, DivergedError; Interrupted when a signal stopped it, after
    saving."""
    given = settings if data is None else {**settings, "data": str(data)}
    config = make_config(inherited_settings(given))
    return train_config(
        config, view or NullView(), asked_bits=config.bits if "bits" in current_settings(given) else None
    )


def train_config(
    config: TrainConfig, view: ProgressView, rows: Rows | None = None, asked_bits: int | None = None
) -> Trained:
    """`train` for a config that is made already, with rows that are read already or are read here. `asked_bits`: those
    that somebody typed, which a model that is stored in others refuses; the default gives way to it."""
    config = replace(
        config,
        data=tilde(config.data),
        model=tilde(config.model),
        output=config.output and tilde(config.output),
        start_from=config.start_from and tilde(config.start_from),
    )
    if not is_text(config.data):  # the run's files name it
        raise UsageError(f"the name of {ascii(config.data)[:120]} is not UTF-8", "Rename it")
    refuse_taken(config.output, force=config.force)
    if asked_bits is not None:
        check_bits(config.model, config.revision, asked_bits, asked_bits)
    with (
        one_training_at_a_time(view),
        watch() as stop,
        fast_paths.compiling_ahead(),
        joined(config.device) as distributed,
    ):
        refuse_alone(config, distributed)
        room = card_room(config, distributed)
        with distributed.first_then_others():
            prepared = prepare(config, view if distributed.is_first else NullView(), rows, distributed, room)
        ready = make_ready(prepared, distributed=distributed)
        if not distributed.is_first:
            return follow(ready, RunDirectory(Path(distributed.first_of_all(""))), stop, None, distributed)
        with new_run(config.output, f"{Path(config.data).stem}-{config.model}", force=config.force) as directory:
            run = RunDirectory(directory)
            distributed.first_of_all(str(directory))
            with _left_only_if_started(run):
                write_text(run.config, dump_config(ready.plan.config))
                return execute_run(ready, run, view, stop, None, distributed)


@contextlib.contextmanager
def _left_only_if_started(run: RunDirectory) -> Iterator[None]:
    """Removes the files of a run that cannot work and fails before its first figure (a base of NaN): there is nothing to
    resume. One that disk, memory or a signal stopped can be resumed, and stays."""
    try:
        yield
    except (DataError, DivergedError, ModelError, UsageError):
        if not run.has_started:
            for path in (run.config, run.manifest, run.training_ngrams):
                path.unlink(missing_ok=True)
        raise


def execute_run(
    ready: ReadyRun,
    run: RunDirectory,
    view: ProgressView,
    stop: StopRequest,
    snapshot: Snapshot | None,
    distributed: Distributed = ALONE,
) -> Trained:
    """Takes the steps that are planned, from `snapshot` or from the first, and writes what came of them into the run's
    folder. Raises Interrupted when a signal stopped it, after saving. Other processes of the run `follow` meanwhile."""
    prepared, plan = ready.prepared, ready.plan
    check_room(run.path, ready.count.trained, plan.config)
    accelerator = _accelerator(plan.config, run.path)
    facts = adapter_facts(prepared)
    tuned = Tuned(ready.loaded, prepared.rows.template, facts.openings or {}, _novelty(prepared, run))
    writer = shared_by(tuned, distributed, stop)
    manifest = initial_manifest(prepared, plan, ready.count)
    if distributed.has_others:
        manifest = replace(manifest, processes=distributed.world)
    write_json(run.manifest, manifest.to_json())
    if prepared.stages:
        manifest = replace(manifest, stages=[str(stage) for stage in prepared.stages])
    say_plan(view, prepared, plan, ready.count, run.path, distributed.world)
    shared = SharedStop(stop) if distributed.has_others else None
    trainer = make_trainer(ready, distributed, shared)
    if trainer.unrecorded:
        view.say(f"         steps are launched kernel by kernel, not as a CUDA graph: {trainer.unrecorded}")
    recorder = Recorder(
        run,
        Samples(writer, sample_prompts(prepared), plan.config.seed),
        view,
        plan.length.num_steps,
        plan.config.log_every,
        plan.config.keep_checkpoints,
        identity(manifest, plan.config),
        accelerator,
        last_saved=snapshot.progress.step if snapshot else -1,
        stop=shared or stop,
    )
    if prepared.base.device.type == "cuda":  # on a CPU the training needs every core
        import_in_background()
    with stop.deferred(), memory_limit(plan.config.gpu_memory_limit):
        previous = read_previous_rows(prepared, view)
        asked = shared or stop
        with asked.heard("nothing was trained yet", ""):
            loss_before = loss_on(trainer, previous) if snapshot is None else None
        with naming_what_is_saved(run, distributed):
            rows, held_out, validation = (
                side.examples for side in (prepared.training, prepared.held_out, prepared.validation)
            )
            end = run_steps(trainer, rows, held_out, plan.length, recorder, asked, snapshot, validation)
        if asked.number:
            if recorder.last_saved != end.progress.step:
                recorder.save(end)
            distributed.wait()
            resume = f"Type: florilegium resume {quoted(run.path)}"
            raise interrupted(asked.number, f"step {end.progress.step} is saved", resume)
        if prepared.stages:
            manifest = replace(manifest, stage_peak_bytes=distributed.each(peak_memory(prepared.base.device)))
        with asked.heard(f"step {recorder.last_saved} is saved", f"Type: florilegium resume {quoted(run.path)}"):
            lost = forgotten(trainer, previous, loss_before, end.best)
        if lost:
            manifest = replace(manifest, forgotten=lost.to_json())
            view.say(f"forgotten  {lost}")
        trained = finish(ready, run, view, writer, manifest, facts, end, recorder, asked)
        stop.what = f"the run is finished and its adapter is in {run.adapter}"
        distributed.wait()
        return replace(trained, tuned=tuned)  # the others have left


def _accelerator(config: TrainConfig, directory: Path) -> Accelerator | None:
    """Accelerate, for its trackers alone: its device is one for the process, whoever named it first."""
    trackers = [n.strip() for n in config.report_to.split(",") if n.strip() not in ("none", "")]
    if not trackers:
        return None
    from accelerate import Accelerator

    with without_launcher():
        try:
            accelerator = Accelerator(cpu=config.device == "cpu", log_with=trackers, project_dir=str(directory))
        except ValueError:  # the process has an Accelerate of another device
            accelerator = Accelerator(cpu=config.device != "cpu", log_with=trackers, project_dir=str(directory))
    if len(accelerator.log_with) < len(set(trackers)):  # it passes over those that it cannot use
        raise UsageError(
            f"--report-to {config.report_to}: Accelerate cannot use all of them",
            "Leave it out, or reinstall them",
        )
    plain = {k: v for k, v in as_dict(config).items() if isinstance(v, (int, float, str, bool))}
    accelerator.init_trackers("florilegium", config=plain)
    return accelerator


def _novelty(prepared: Prepared, run: RunDirectory) -> NoveltyIndex:
    first = prepared.rows.template.main_column
    index = NoveltyIndex.from_texts(str(quote[first]) for quote in prepared.training_quotes)
    index.save(run.training_ngrams)
    return index
