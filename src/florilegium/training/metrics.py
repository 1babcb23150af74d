"""What a step and an evaluation measure, as metrics.jsonl has them."""

from __future__ import annotations

from dataclasses import dataclass

Number = float | int | None


@dataclass(frozen=True)
class StepResult:
    """One optimizer step. `loss` is nats a target token, `grad_norm` that before clipping."""

    loss: float
    grad_norm: float
    learning_rate: float
    tokens: int
    padding_share: float
    peak_memory_bytes: int


@dataclass(frozen=True)
class StepMetrics:
    """A step, and when it was."""

    step: int  # from 1
    epoch: float
    result: StepResult
    tokens_per_second: float
    elapsed_seconds: float

    def to_json(self) -> dict[str, Number]:
        speed = {"tokens_per_second": self.tokens_per_second, "elapsed_seconds": self.elapsed_seconds}
        return {"step": self.step, "epoch": self.epoch, **vars(self.result), **speed}


@dataclass(frozen=True)
class EvalMetrics:
    """The held-out loss after `step` steps, None where no row was held out; and that of the validation rows, which
    choose the best step, None where there are none."""

    step: int
    epoch: float
    eval_loss: float | None = None
    eval_seconds: float = 0.0
    validation_loss: float | None = None

    def to_json(self) -> dict[str, Number]:
        if self.eval_loss is None:
            return {"step": self.step, "eval_loss": None}
        return {key: value for key, value in vars(self).items() if key != "validation_loss" or value is not None}
