"""What a run leaves behind while it trains: lines of metrics and samples, checkpoints, and a word to whoever
watches."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Protocol

from florilegium.errors import ResourceError, counted
from florilegium.generation import Generated
from florilegium.runs.samples import Samples
from florilegium.signals import StopRequest
from florilegium.storage.atomic_files import append_line, atomic_write, sync_file
from florilegium.storage.json_lines import whole_lines
from florilegium.storage.run_directory import RunDirectory
from florilegium.storage.same_place import SamePlace
from florilegium.training import EvalMetrics, SharedStop, Snapshot, StepMetrics, save_checkpoint
from florilegium.training.checkpoint import RunIdentity

if TYPE_CHECKING:
    from accelerate import Accelerator


class ProgressView(Protocol):
    """Who watches a run: the terminal, or nobody. `loading` is told how many bytes of the base are read, and of how many;
    `compiling` that kernels are compiled from now on, until the first figure, and whom to ask how many of them are;
    `underway` how much is done of what comes between the steps."""

    def say(self, line: str) -> None: ...
    def loading(self, done: int, total: int) -> None: ...
    def compiling(self, count: Callable[[], tuple[int, int]]) -> None: ...
    def underway(self, what: str, done: int, total: int) -> None: ...
    def step(self, metrics: StepMetrics, num_steps: int) -> None: ...
    def evaluated(self, metrics: EvalMetrics, is_best: bool) -> None: ...
    def sample(self, step: int, prompt: str, row: Generated) -> None: ...


class NullView:
    """Nobody watches."""

    def say(self, line: str) -> None: ...
    def loading(self, done: int, total: int) -> None: ...
    def compiling(self, count: Callable[[], tuple[int, int]]) -> None: ...
    def underway(self, what: str, done: int, total: int) -> None: ...
    def step(self, metrics: StepMetrics, num_steps: int) -> None: ...
    def evaluated(self, metrics: EvalMetrics, is_best: bool) -> None: ...
    def sample(self, step: int, prompt: str, row: Generated) -> None: ...


@dataclass
class Recorder:
    """The loop's observer: it writes to the run's folder and tells the view."""

    run: RunDirectory
    texts: Samples
    view: ProgressView
    num_steps: int
    log_every: int
    keep_checkpoints: int
    whose: RunIdentity | None = None
    accelerator: Accelerator | None = None
    last_saved: int = -1
    samples: list[Generated] = field(default_factory=list)
    step: int = 0
    stop: StopRequest | SharedStop = field(default_factory=StopRequest)
    place: SamePlace = field(init=False)

    def __post_init__(self) -> None:
        self.place = SamePlace.of(self.run.path, self.run.checkpoints.name, self.run.adapter.name)

    def step_done(self, metrics: StepMetrics) -> None:
        self.step = metrics.step
        if metrics.step % self.log_every == 0 or metrics.step == self.num_steps:
            self._write(metrics)
        self.view.step(metrics, self.num_steps)

    def evaluating(self, done: int, total: int) -> None:
        self.view.underway(f"evaluating {counted(total, 'held-out row')}", done, total)

    def evaluated(self, metrics: EvalMetrics, is_best: bool) -> None:
        """Raises Interrupted when a signal ends the samples; the loss is written by then."""
        self._write(metrics)
        if metrics.eval_loss is not None:
            self.view.evaluated(metrics, is_best)
        try:
            self.samples = self.texts.write(self.stop, partial(self.view.underway, "writing samples"))
        except ResourceError as error:  # the losses fit: samples are no reason to end a run
            self.note(f"no samples: {error.cause}")
            self.view.say(f"         no samples at step {metrics.step}: {error.cause}")
            return
        for (prompt, _), row in zip(self.texts.prompts, self.samples, strict=True):
            template, own = self.texts.tuned.template, {"step": metrics.step, "prompt": prompt}
            # `own` again behind the columns, of which one may be called `prompt`: the line's keys win.
            line = {**own, **row.as_row(template), **own, "columns": row.columns(template)}
            append_line(self.run.samples, line)
            self.view.sample(metrics.step, prompt, row)

    def save(self, snapshot: Snapshot) -> None:
        self.place.check()
        for path in (self.run.metrics, self.run.samples, self.run.events):
            sync_file(path)  # a run that is resumed from this checkpoint must not have lost its lines
        save_checkpoint(self.run.checkpoints, snapshot, self.keep_checkpoints, self.whose)
        self.last_saved = snapshot.progress.step

    def note(self, line: str) -> None:
        self.place.check()
        append_line(self.run.events, {"step": self.step, "event": line})
        self.view.say(line)

    def samples_at(self, step: int) -> list[str]:
        """The texts of the evaluation at `step`, else of the last one, from the disk: a run that was resumed at its end
        took none itself."""
        rows = [row for row in self.run.read_samples() if isinstance(row.get("text"), str)]
        at = step if any(row.get("step") == step for row in rows) else rows[-1].get("step") if rows else None
        return [str(row["text"]) for row in rows if row.get("step") == at]

    def _write(self, metrics: StepMetrics | EvalMetrics) -> None:
        """To metrics.jsonl, and to the trackers of --report-to."""
        self.place.check()
        row = metrics.to_json()
        append_line(self.run.metrics, row)
        numbers = {name: value for name, value in row.items() if value is not None and name != "step"}
        if self.accelerator is not None and self.accelerator.trackers and numbers:
            self.accelerator.log(numbers, step=metrics.step)


def forget_after(run: RunDirectory, step: int, is_evaluated: bool = True) -> None:
    """Drops what was logged beyond `step`, before a run goes on from there; of `step` itself the evaluation, where that
    is measured anew."""
    for path in (run.metrics, run.samples):
        if path.exists():
            with atomic_write(path) as file:
                for _, row in whole_lines(path):
                    number = row.get("step")
                    is_left = not is_evaluated and number == step and "eval_loss" in row
                    if isinstance(number, (int, float)) and number <= step and not is_left:
                        file.write(json.dumps(row, ensure_ascii=False) + "\n")
