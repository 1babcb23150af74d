"""NEFTune (Jain et al. 2023, arXiv:2310.05914): while training, uniform noise of size alpha / sqrt(length * width) on the
embeddings of each document.

A token's noise is drawn by its number in its step, as the adapter's dropout is (`row_dropout.py`): it is the same however
rows are packed, in whatever process, and in a run that is resumed. Families with a forward pass of their own embed by
themselves, so there the batch is looked up where the thread has it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING

import torch
from torch import nn

from florilegium.model.families.base import inner_model
from florilegium.reference import uniform_noise
from florilegium.tokens import Batch

if TYPE_CHECKING:
    from florilegium.model.families.base import AnyModel

_batch: ContextVar[Batch | None] = ContextVar("batch", default=None)


def add_noise(hidden_BTW: torch.Tensor, batch: Batch, alpha: float) -> torch.Tensor:
    """The embeddings of `batch`, with noise."""
    length_BT = batch.position_BT + batch.remaining_BT  # tokens before this one in its document, and from it on
    size_BT1 = alpha / (length_BT * hidden_BTW.shape[-1]).float().sqrt()[..., None]
    noise_TW = uniform_noise(batch.seed_1, batch.number_BT.flatten(), hidden_BTW.shape[-1])
    return hidden_BTW + (noise_TW.view(hidden_BTW.shape) * size_BT1).to(hidden_BTW.dtype)


@contextlib.contextmanager
def noise_of(batch: Batch) -> Iterator[None]:
    """Inside, a model whose embedding is noisy is given `batch`."""
    before = _batch.set(batch)
    try:
        yield
    finally:
        _batch.reset(before)


def make_embedding_noisy(model: AnyModel, alpha: float) -> None:
    """NEFTune on what the input embedding of another family gives while it is trained."""
    inner = inner_model(model)

    def noisy(module: nn.Module, inputs: tuple[torch.Tensor, ...], hidden_BTW: torch.Tensor) -> torch.Tensor:
        batch = _batch.get()
        return add_noise(hidden_BTW, batch, alpha) if batch is not None and inner.training else hidden_BTW

    inner.get_input_embeddings().register_forward_hook(noisy)
