"""Attention inside the documents of packed rows by the kernels of BLOOM's training (`fast/training/attention_kernel.py`), with
slopes of 0.

Grouped keys and values are written out for each of their queries' heads, head by head beside them, as the kernels want
them: 3 D numbers a head and token, which is little beside the layer's linears. Shapes: T tokens, H heads, G of them to a
key, D head dimension."""

from __future__ import annotations

from typing import Protocol

import torch

from florilegium.fast.layers.packed_rows import PackedRows
from florilegium.fast.training.attention_grad_kernel import attention_grad
from florilegium.fast.training.attention_kernel import attention


class AttentionContext(Protocol):
    """autograd's context, with what the pass leaves on it."""

    saved_tensors: tuple[torch.Tensor, ...]
    rows: PackedRows
    groups: int

    def save_for_backward(self, *tensors: torch.Tensor) -> None: ...


class DocumentAttention(torch.autograd.Function):
    """q [T, H, D], k and v [T, H / G, D] to [T, H, D]."""

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
