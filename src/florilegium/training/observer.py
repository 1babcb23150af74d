"""Who watches the training loop, and how it is told of steps that a GPU is still busy with."""

from __future__ import annotations

import time
from typing import Protocol

from florilegium.training.checkpoint import Progress, Snapshot
from florilegium.training.length import RunLength
from florilegium.training.metrics import EvalMetrics, StepMetrics
from florilegium.training.step import StartedStep


class Observer(Protocol):
    """Who wants to know. Every call comes between two steps."""

    def step_done(self, metrics: StepMetrics) -> None: ...
    def evaluating(self, done: int, total: int) -> None: ...  # held-out rows
    def evaluated(self, metrics: EvalMetrics, is_best: bool) -> None: ...
    def save(self, snapshot: Snapshot) -> None: ...
    def note(self, line: str) -> None: ...


class StepReporter:
    """Tells the observer of each step, on a CUDA device while the next one runs: it waits for one step at a time, one
    behind."""

    def __init__(self, progress: Progress, length: RunLength, observer: Observer, began: float) -> None:
        self.progress, self.length, self.observer, self.began = progress, length, observer, began
        self.waiting: StartedStep | None = None
        self.told = progress.step
        self.last = time.monotonic()

    def started(self, step: StartedStep) -> None:
        self.finish()
        self.waiting = step
        if step.done is None:
            self.finish()

    def finish(self) -> None:
        """Waits for the step that was started, and tells."""
        if self.waiting is None:
            return
        result = self.waiting.result()
        began, now = max(self.last, self.waiting.host.began), time.monotonic()
        self.waiting = None
        self.told += 1
        self.progress.tokens += result.tokens
        self.progress.elapsed_seconds = now - self.began
        rate = result.tokens / max(now - began, 1e-9)
        epoch = round(self.told / self.length.steps_per_epoch, 4)
        self.observer.step_done(StepMetrics(self.told, epoch, result, rate, now - self.began))
        self.last = now
