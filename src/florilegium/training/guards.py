"""What must not pass: NaN or infinity in a loss, a gradient, the adapter or the optimiser.

One NaN spreads: into every weight at the next step, into the checkpoint, and from there into the adapter that is
published. So it is looked for in three places. `check_step` looks at a step's loss and gradient norm before the
optimiser moves anything (the norm is a sum over every gradient, so one NaN among 7,864,320 shows in it).
`check_snapshot` looks at all that is about to be saved: the newest good checkpoint is never followed by a bad one.
`check_tensors` looks at the adapter before it gets its name."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from florilegium.errors import DivergedError
from florilegium.storage.finite import FIX, check_tensors


def check_step(step: int, loss: float, grad_norm: float) -> None:
    """Raises DivergedError when the loss (nats a token) or the gradient's norm of step number `step` is NaN or
    infinite."""
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        raise DivergedError(
            f"training diverged at step {step} (loss {loss}, gradient norm {grad_norm}); the update was skipped", FIX
        )


def check_eval_loss(step: int, loss: float) -> None:
    """Raises DivergedError when the held-out loss after `step` steps is NaN or infinite."""
    if not math.isfinite(loss):
        what = (
            "The base model contains NaN values or overflows: try --dtype float32, or another model"
            if step == 0
            else FIX
        )
        raise DivergedError(f"the held-out loss is {loss} at step {step}", what)


def check_snapshot(
    step: int, adapter: Mapping[str, torch.Tensor], best: Mapping[str, torch.Tensor], optimizer: Mapping[str, Any]
) -> None:
    """Raises DivergedError when anything that would be saved at `step` holds NaN or infinity."""
    check_tensors(adapter, f"the adapter at step {step}")
    check_tensors(best, f"the best adapter at step {step}")
    check_tensors(dict(_tensors(optimizer.get("state", {}), "")), f"the optimizer at step {step}")


def _tensors(state: Mapping[Any, Any], path: str) -> Iterator[tuple[str, torch.Tensor]]:
    for name, value in state.items():
        if isinstance(value, torch.Tensor):
            yield f"{path}{name}", value
        elif isinstance(value, Mapping):
            yield from _tensors(value, f"{path}{name}.")
