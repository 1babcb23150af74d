"""What an adapter does to one weight, computed a few rows at a time.

    W' = W + scaling * B A                              LoRA
    W' = m / |W + scaling * B A| * (W + scaling * B A)  DoRA: m an output's magnitude, |.| that output's norm

A weight is read here as the checkpoint stores it, and `left @ right` is the change in that layout: B A for a linear,
(B A)^T for GPT-2's Conv1D and for an embedding. All of it is float32; memory is that of the rows at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

PIECE = 1 << 22  # numbers that are computed at a time: 16 MB in float32

Rows = Callable[[int, int], torch.Tensor]  # rows first to last of a weight, as the file holds them


@dataclass(frozen=True)
class LoraChange:
    """`scaling * left_NR @ right_RK` is added to a stored weight of N rows. `magnitude` is DoRA's, one for each row, or
    for each column where the layout is `transposed`."""

    left_NR: torch.Tensor
    right_RK: torch.Tensor
    magnitude: torch.Tensor | None = None
    transposed: bool = False
    init: str = "default"  # PiSSA and OLoRA move a part of the base into A and B before the first step
    scaling: float = 1.0

    def prepared(self, rows: Rows, shape: tuple[int, int]) -> Rows:
        """A reader of the changed weight's rows in float32."""
        base = _residual(self, rows, shape) if self.init != "default" else lambda a, b: rows(a, b).float()

        def added(first: int, last: int) -> torch.Tensor:
            return torch.addmm(base(first, last), self.left_NR[first:last], self.right_RK, alpha=self.scaling)

        if self.magnitude is None:
            return added
        if not self.transposed:
            return lambda a, b: _scaled(added(a, b), self.magnitude, a, b)
        factor_K: torch.Tensor = self.magnitude / _column_norms(added, shape)

        def scaled(first: int, last: int) -> torch.Tensor:
            return added(first, last) * factor_K

        return scaled


def spans(shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """First and last rows of the pieces in which a weight of `shape` is computed."""
    width = max(1, shape[1] if len(shape) > 1 else 1)
    step = max(1, PIECE // width)
    yield from ((first, min(first + step, shape[0])) for first in range(0, shape[0], step))


def _scaled(rows_NK: torch.Tensor, magnitude_N: torch.Tensor | None, first: int, last: int) -> torch.Tensor:
    assert magnitude_N is not None
    factor_N: torch.Tensor = magnitude_N[first:last] / torch.linalg.norm(rows_NK, dim=1)
    return rows_NK * factor_N[:, None]


def _column_norms(rows: Rows, shape: tuple[int, int]) -> torch.Tensor:
    """Norms over all rows: the weight is computed once for them, and once more to be written."""
    squares_K = torch.zeros(shape[1], dtype=torch.float64)
    for first, last in spans(shape):
        squares_K += rows(first, last).double().square().sum(dim=0)
    return squares_K.sqrt().float()


def _residual(change: LoraChange, rows: Rows, shape: tuple[int, int]) -> Rows:
    """The base without what PiSSA or OLoRA took out of it: PEFT takes it out again whenever it loads such an adapter,
    by a decomposition of the whole weight, and the same call does it here."""
    from peft import LoraConfig
    from peft.tuners.lora import Linear

    whole_NK = rows(0, shape[0]).float()
    linear = torch.nn.Linear(*(shape if change.transposed else shape[::-1]), bias=False)
    linear.weight.data = whole_NK.T.contiguous() if change.transposed else whole_NK
    rank = change.right_RK.shape[0]
    alpha: Any = change.scaling * rank  # PEFT's hints say int; rsLoRA's scaling is a root
    init: Any = change.init
    config = LoraConfig(r=rank, lora_alpha=alpha, init_lora_weights=init)
    Linear(linear, "default", config, r=rank, lora_alpha=alpha)
    left_NK = linear.weight.detach()
    left_NK = left_NK.T if change.transposed else left_NK
    return lambda a, b: left_NK[a:b]
