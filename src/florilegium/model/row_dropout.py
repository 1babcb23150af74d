"""The adapter's dropout, drawn by a token's number in its step: PEFT's modules changed for ones that know it.

    with rows_drawn(batch):       token_losses(loaded, batch).sum().backward()

So a step drops the same however its rows are packed, cut into micro-batches, or dealt to processes, whose losses and
adapter are then those of one process. PEFT calls the module with the input alone, which is why the numbers are looked up
where the thread has them. Where they are not there, or are not those of this input (a mixture's experts get some of the
tokens), and on a GPU outside the fused blocks (which draw the same by themselves), it is PyTorch's own dropout."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from florilegium.reference import drop_limit, dropout_keep
from florilegium.tokens import Batch

if TYPE_CHECKING:
    from florilegium.model.families.base import AnyModel


@dataclass(frozen=True)
class Draws:
    """`number_T` are the numbers of a batch's tokens, `seed` is the step's."""

    seed: int
    number_T: torch.Tensor


_draws: ContextVar[Draws | None] = ContextVar("draws", default=None)


@contextlib.contextmanager
def rows_drawn(batch: Batch) -> Iterator[None]:
    """Inside, dropout is drawn by the tokens' numbers, also where activations are recomputed."""
    on_cpu = batch.number_BT.device.type == "cpu"  # a GPU would be waited for
    before = _draws.set(Draws(int(batch.seed_1), batch.number_BT.flatten()) if on_cpu else None)
    try:
        yield
    finally:
        _draws.reset(before)


class RowDropout(nn.Dropout):
    """On the input of one linear, which is `stream` of the model's."""

    def __init__(self, p: float, stream: int) -> None:
        super().__init__(p)
        self.stream = stream

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        draws, width = _draws.get(), x.shape[-1]
        if not self.training or draws is None or x.is_cuda or x.numel() != len(draws.number_T) * width:
            return super().forward(x)
        limit = drop_limit(self.p)
        keep = dropout_keep(draws.seed, self.stream, draws.number_T, width, limit)
        return x * (keep.view(x.shape).to(x.dtype) * (65536 / (65536 - limit)))


def draw_by_rows(model: AnyModel) -> None:
    """Puts RowDropout in the place of the adapter's dropout on each linear."""
    from peft.tuners.lora import LoraLayer

    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    for stream, layer in enumerate(layers):
        for name, dropout in layer.lora_dropout.items():
            if isinstance(dropout, nn.Dropout):  # PEFT has an Identity there for 0
                layer.lora_dropout[name] = RowDropout(dropout.p, stream)
