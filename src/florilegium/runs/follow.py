"""What the processes other than rank 0 do in a run: the same steps and evaluations, their share of the texts, and nothing
on disk or screen.

It mirrors `execute_run` call by call where the processes sum or share something; where rank 0 writes checkpoints or the
adapter, these wait at the next sum."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from florilegium.errors import FlorilegiumError, ResourceError
from florilegium.generation.tuned import Tuned
from florilegium.model import set_adapter_state
from florilegium.runs.finish import Trained, verdict_of
from florilegium.runs.manifest import adapter_facts, initial_manifest
from florilegium.runs.prepare import sample_prompts
from florilegium.runs.previous_rows import forgotten, loss_on, read_previous_rows
from florilegium.runs.recorder import NullView
from florilegium.runs.samples import Samples, shared_by
from florilegium.runs.setup import ReadyRun, make_trainer
from florilegium.storage.paths import quoted
from florilegium.storage.run_directory import RunDirectory
from florilegium.training import (
    Distributed,
    EvalMetrics,
    PeerLost,
    SharedStop,
    Snapshot,
    StepMetrics,
    StopRequest,
    interrupted,
    peak_memory,
    run_steps,
)
from florilegium.training.checkpoint import checkpoints
from florilegium.training.peers import someone_is_gone


@contextlib.contextmanager
def naming_what_is_saved(run: RunDirectory, distributed: Distributed) -> Iterator[None]:
    """Where another process ends in the middle of the steps: what is on disk, and how to go on."""
    if distributed.peers is not None:
        distributed.peers.lost = lambda: lost_in(run, someone_is_gone())
    try:
        yield
    except PeerLost as error:
        raise lost_in(run, error) from error


def lost_in(run: RunDirectory, error: FlorilegiumError) -> PeerLost:
    newest = [int(path.name[5:]) for path in checkpoints(run.checkpoints)[:1]]
    what = f"step {newest[0]} is saved" if newest else "no step was saved yet"
    return PeerLost(f"{error.cause}; {what}", f"Type: florilegium resume {quoted(run.path)}")


@dataclass(frozen=True)
class Unrecorded:
    """The loop's observer of a process that records nothing, and writes its share of the samples."""

    texts: Samples
    stop: SharedStop

    def step_done(self, metrics: StepMetrics) -> None: ...
    def evaluating(self, done: int, total: int) -> None: ...
    def evaluated(self, metrics: EvalMetrics, is_best: bool) -> None:
        with contextlib.suppress(ResourceError):  # rank 0 says so, and goes on
            self.texts.write(self.stop)

    def save(self, snapshot: Snapshot) -> None: ...
    def note(self, line: str) -> None: ...


def follow(
    ready: ReadyRun, run: RunDirectory, stop: StopRequest, snapshot: Snapshot | None, distributed: Distributed
) -> Trained:
    """Trains beside rank 0, which keeps the run in `run`, and returns when its adapter is there. Raises Interrupted
    when any process was asked to stop, after rank 0 has saved."""
    prepared, plan = ready.prepared, ready.plan
    facts = adapter_facts(prepared)
    tuned = Tuned(ready.loaded, prepared.rows.template, facts.openings or {})
    writer, shared = shared_by(tuned, distributed, stop), SharedStop(stop)
    observer = Unrecorded(Samples(writer, sample_prompts(prepared), plan.config.seed), shared)
    trainer = make_trainer(ready, distributed, shared)
    with stop.deferred():
        previous = read_previous_rows(prepared, NullView())
        before = loss_on(trainer, previous) if snapshot is None else None
        rows, held_out, validation = (
            side.examples for side in (prepared.training, prepared.held_out, prepared.validation)
        )
        with naming_what_is_saved(run, distributed):
            end = run_steps(trainer, rows, held_out, plan.length, observer, shared, snapshot, validation)
        if shared.number:
            distributed.wait()
            raise interrupted(shared.number, f"step {end.progress.step} is saved")
        if prepared.stages:
            distributed.each(peak_memory(prepared.base.device))
        forgotten(trainer, previous, before, end.best)
        if end.best:
            set_adapter_state(tuned.model, end.best)
        with shared.heard("the adapter was not written yet", ""):
            verdict_of(ready, run, NullView(), writer)
        stop.what = f"the run is finished and its adapter is in {run.adapter}"
        distributed.wait()
    return Trained(run.path, tuned, initial_manifest(prepared, plan, ready.count), [])
