"""Attention inside the documents of packed rows, given to Transformers as an attention implementation of a name: the
kernels of BLOOM's training (`fast/training/attention_kernel.py`) with slopes of 0.

No mask is made and none is read: a block of queries begins at its first document. Grouped keys and values are written out
for each of their queries' heads, head by head beside them, as the kernels want them: 3 D numbers a head and token, which
is little beside the layer's linears. Shapes: T tokens, H heads, G of them to a key, D head dimension."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import nn

from florilegium.fast.layers.packed_rows import PackedRows, rows_of
from florilegium.fast.training.attention_grad_kernel import attention_grad
from florilegium.fast.training.attention_kernel import attention

if TYPE_CHECKING:
    from transformers import PretrainedConfig

NAME = "florilegium_documents"
WIDEST_HEAD = 128  # what a tile of attention holds in registers


class AttentionContext(Protocol):
    """autograd's context, with what the pass leaves on it."""

    saved_tensors: tuple[torch.Tensor, ...]
    rows: PackedRows
    groups: int

    def save_for_backward(self, *tensors: torch.Tensor) -> None: ...


class DocumentAttention(torch.autograd.Function):
    """q [T, H, D], times what the scores are to be scaled by beyond D**-0.5, k and v [T, H / G, D] to [T, H, D]."""

    @staticmethod
    def forward(
        ctx: AttentionContext, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: PackedRows
    ) -> torch.Tensor:
        T, H, D = q.shape
        ctx.rows, ctx.groups = rows, H // k.shape[1]
        # one tensor for the three, as the kernels' strides have it; grouped heads are written out for each of theirs
        fused = q.new_empty(T, H, 3, D)
        fused[:, :, 0] = q
        for place, x in ((1, k), (2, v)):
            fused.view(T, -1, ctx.groups, 3, D)[:, :, :, place] = x[:, :, None]
        context = q.new_empty(T, H * D)
        # q lies there as q' from here on: with a scale of 1 that is q
        logsumexp = attention(fused.unbind(2), *_neutral(q), rows.start_T, _slopes(q), context)
        ctx.save_for_backward(fused, context, logsumexp)
        return context.view(T, H, D)

    @staticmethod
    def backward(ctx: AttentionContext, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        fused, context, logsumexp = ctx.saved_tensors
        T, H, _, D = fused.shape
        # every element is written by one program: no atomics, so the same bits each time
        grad_fused, rows = torch.empty_like(fused), ctx.rows
        q = fused[:, :, 0]
        attention_grad(
            fused.unbind(2), *_neutral(q), context, logsumexp, grads[0].reshape(T, H * D), grad_fused.unbind(2),
            start_T=rows.start_T, end_T=rows.end_T, slopes_H=_slopes(q),
        )  # fmt: skip
        # a key's gradient is the sum of its heads'
        grad_k, grad_v = (grad_fused[:, :, place].view(T, -1, ctx.groups, D).sum(2) for place in (1, 2))
        return grad_fused[:, :, 0], grad_k, grad_v, None


def _neutral(q: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    """Scales of 1 and biases of 0, for kernels that read raw products."""
    _, H, D = q.shape
    return q.new_ones(H, 3, D).unbind(1), q.new_zeros(H, 3, D).unbind(1)


def _slopes(q: torch.Tensor) -> torch.Tensor:
    return q.new_zeros(q.shape[1], dtype=torch.float32)


def document_attention(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: torch.Tensor | None,
    scaling: float | None = None, dropout: float = 0.0, **options: object,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """As Transformers calls it: query [B, H, T, D], key and value [B, H / G, T, D], to [B, T, H, D]. Raises ValueError
    for what the kernels do not make; the trial before a run finds it (`fused_layers.py`)."""
    D = query.shape[-1]
    rows = rows_of(query, query.shape[1] * D)
    if rows is None or attention_mask is not None or dropout:
        raise ValueError("the attention of packed rows was called with other rows, a mask, or dropout")
    given = [name for name in ("softcap", "s_aux", "head_mask") if options.get(name) is not None]
    if given or D > WIDEST_HEAD or value.shape[-1] != D:
        raise ValueError(f"the attention of packed rows takes no {' or '.join(given) or 'such heads'}")
    if isinstance(window := options.get("sliding_window"), int) and window < rows.longest:
        raise ValueError(f"documents of up to {rows.longest:,} tokens are longer than the window of {window:,}")
    # the kernels scale by D**-0.5 themselves; Gemma and Granite have factors of their own
    factor = 1.0 if scaling is None else scaling * D**0.5
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (query, key, value))
    out: torch.Tensor = cast(Any, DocumentAttention.apply)(q if abs(factor - 1) < 1e-6 else q * factor, k, v, rows)
    return out.view(query.shape[0], -1, *out.shape[1:]), None


@contextlib.contextmanager
def attending(config: PretrainedConfig) -> Iterator[None]:
    """Inside, the model of this config attends by `document_attention`, and makes no mask."""
    from transformers import AttentionInterface

    # again each time: a dictionary's entry, and nobody has to know who came first
    AttentionInterface.register(NAME, document_attention)
    # each attention module reads it from its config as it is called, and so does what would make the masks
    parts = {"": config, **{name: getattr(config, name) for name in config.sub_configs if getattr(config, name, None)}}
    before = {name: part._attn_implementation for name, part in parts.items()}
    config._attn_implementation = NAME  # of its sub-configs too
    try:
        yield
    finally:
        config._attn_implementation = before
