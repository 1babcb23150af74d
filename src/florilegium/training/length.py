"""How long a run is, known before its first step: its steps, and when it evaluates and saves."""

from __future__ import annotations

import math
from dataclasses import dataclass

from florilegium.config import TrainConfig
from florilegium.data.sources import SAMPLE

LEAST_PASSES, ENOUGH_STEPS, MOST_PASSES = 3, 200, 20


@dataclass(frozen=True)
class RunLength:
    """The run in numbers, known before the first step."""

    num_steps: int
    steps_per_epoch: int
    evaluate_every: int
    save_every: int

    @property
    def evaluations(self) -> int:
        """Before the first step, each `evaluate_every` steps, and at the end."""
        return 1 + math.ceil(self.num_steps / self.evaluate_every)


def choose_epochs(num_rows: int, config: TrainConfig) -> float:
    """Passes for a run that names none: at least LEAST_PASSES and about ENOUGH_STEPS, at most MOST_PASSES. Of 300 rows
    three passes are 51 steps, after which a small model writes quotes without tags. Of the bundled quotes the steps
    alone are enough: the held-out loss stands still after half of them, and somebody waits for their first run."""
    least = 1 if config.data == SAMPLE else LEAST_PASSES
    per_epoch = math.ceil(num_rows / config.batch_size)
    enough = math.ceil(2 * ENOUGH_STEPS / max(1, per_epoch)) / 2  # in half passes
    return float(min(MOST_PASSES, max(least, enough)))


def plan_length(num_rows: int, config: TrainConfig) -> RunLength:
    """Steps of the run and when to evaluate and to save: four times a run unless the config says otherwise."""
    per_epoch = math.ceil(num_rows / config.batch_size)
    epochs = config.epochs if config.epochs is not None else choose_epochs(num_rows, config)
    steps = config.max_steps or math.ceil(per_epoch * epochs)
    every = config.eval_every or max(1, math.ceil(steps / 4))
    return RunLength(steps, per_epoch, every, config.save_every or every)
