"""A run trained again with other seeds: another split, another start of the adapter, another order of rows.

runs/NAME/repeats/seed-1/     a run of its own, trained and evaluated as NAME was; what is finished is kept
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from florilegium.config import TrainConfig
from florilegium.errors import clock
from florilegium.generation import Generated
from florilegium.runs.recorder import NullView, ProgressView
from florilegium.runs.train import train_config
from florilegium.storage.run_directory import RunDirectory
from florilegium.training import StepMetrics

REPEATS = "repeats"
SECONDS_BETWEEN_LINES = 10.0


class RepeatView(NullView):
    """Tells of a training in one line every ten seconds, with the time that all of the repeats have left."""

    def __init__(self, view: ProgressView, number: int, count: int) -> None:
        self.view, self.number, self.count = view, number, count
        self.began = self.last = time.monotonic()

    def step(self, metrics: StepMetrics, num_steps: int) -> None:
        now = time.monotonic()
        if now - self.last < SECONDS_BETWEEN_LINES:
            return
        self.last = now
        left = (now - self.began) / metrics.step * (num_steps * (self.count - self.number + 1) - metrics.step)
        done = f"step {metrics.step}/{num_steps}, loss {metrics.result.loss:.3f}"
        self.view.say(f"repeat {self.number} of {self.count}  {done}  training ETA {clock(left)}")

    def sample(self, step: int, prompt: str, row: Generated) -> None: ...


def repeat(
    directory: Path,
    config: TrainConfig,
    count: int,
    evaluate: Callable[[Path], Mapping[str, object]],
    view: ProgressView,
) -> dict[int, Mapping[str, object]]:
    """What `evaluate` says of `count` runs with the seeds after the run's own, by seed. Raises what training and evaluating
    raise; what is trained by then is kept."""
    found: dict[int, Mapping[str, object]] = {}
    for number in range(1, count + 1):
        seed = config.seed + number
        run = RunDirectory(directory / REPEATS / f"seed-{seed}")
        view.say(f"repeat {number} of {count}  seed {seed}: {run.path}")
        if not run.has_adapter:
            again = replace(
                config, seed=seed, output=str(run.path), force=run.is_run, verdict_texts=0, report_to="none"
            )
            run.path.parent.mkdir(exist_ok=True)
            train_config(again, RepeatView(view, number, count))
        found[seed] = evaluate(run.path)
    return found
