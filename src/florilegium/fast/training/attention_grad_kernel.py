"""The Triton kernels of training's attention, backward: the gradients of the raw query, key and value
(`attention_kernel.py` tells what they are the gradients of).

It is FlashAttention-2's backward pass (Dao 2023, arXiv:2307.08691): probabilities are recomputed from the saved
log-sum-exp (here to the base 2). Nothing is added atomically, so the same input gives the same bits. Shapes: T tokens,
H heads, D head dimension."""

# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-any-return"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from florilegium.fast.kernel_math import LOG2E
from florilegium.fast.training.attention_kernel import (
    BLOCK,
    TILE,
    Three,
    check_fused,
    load_rows,
    load_vector,
    masked_scores,
    sizes,
    store_rows,
)
from florilegium.fast.unpack_kernel import NATURAL_ORDER, mma_column_order, to_mma_order


@triton.jit
def attention_delta_kernel(
    out, grad, vb, delta, stride_h, out_stride, grad_stride, T, H,
    ORDER: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Reference: delta = (grad * (context - vb)).sum(-1)      out (the context, its columns in ORDER) and grad
    [T, H * D], rows `out_stride` and `grad_stride` apart; delta [H, T] float32.

    It is the part of softmax's gradient that is the same along a row. Its sum is made once here: made in both halves of
    the next kernel it cost more than this launch."""
    head = tl.program_id(1)
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    column = tl.arange(0, BLOCK_D)
    offset = head * stride_h
    above = load_rows(grad + head * D, row, column, grad_stride, D, BLOCK_D).to(tl.float32)
    bias = load_vector(vb + offset, column, D)[None, :]
    if D % 64 == 0:  # a sum minds no order, so the gradient is brought into the context's
        after = load_rows(out + head * D, row, column, out_stride, D, BLOCK_D).to(tl.float32) - to_mma_order(
            bias, ORDER, 1, D
        )
        row_sum = tl.sum(to_mma_order(above, ORDER, BLOCK, D) * after, 1)
    else:
        context = out + row[:, None].to(tl.int64) * out_stride + mma_column_order(head * D + column, ORDER)[None, :]
        row_sum = tl.sum(above * (tl.load(context, mask=(column < D)[None, :], other=0.0).to(tl.float32) - bias), 1)
    tl.store(delta + head * T + row, row_sum)


@triton.jit
def attention_grad_kernel(
    q, k, v, qs, ks, vs, grad, logsumexp, delta, dq, dk, dv, starts, ends, slopes, stride_t, stride_h, grad_stride, T, H, root, sqrt,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """Reference: dv = p.T @ grad * vs; ds = p * (grad * vs @ v.T - delta); dk = ds.T @ q' / D**0.5; dq = ds @ k / D**0.5
    * ks * qs, with p the softmax of `attention_kernel`

    q (which holds q'), k, v and their gradients as there; grad as above; logsumexp, delta [H, T]. Programs (0, b, h)
    make dk and dv of BLOCK keys, programs (1, b, h) dq of BLOCK queries."""
    head = tl.program_id(2)
    block = tl.program_id(1)
    mine = block * BLOCK + tl.arange(0, BLOCK)
    column = tl.arange(0, BLOCK_D)
    offset = head * stride_h
    slope = tl.load(slopes + head) * LOG2E
    logsumexp += head * T
    delta += head * T
    grad += head * D  # as the context, [T, H * D]: heads side by side
    # value = raw * vs + vb: grad times vs is the gradient of what the raw values were averaged to
    by = load_vector(vs + offset, column, D)[None, :]
    # the gradients of a block of keys and values: the queries that see it, scores [keys, queries]
    if tl.program_id(0) == 0:
        key = load_rows(k + offset, mine, column, stride_t, D, BLOCK_D)
        # vs goes to the values, which are read once, and not to each block of gradients
        value = (load_rows(v + offset, mine, column, stride_t, D, BLOCK_D) * by).to(v.dtype.element_ty)
        grad_key = tl.zeros([BLOCK, BLOCK_D], tl.float32)
        grad_value = tl.zeros([BLOCK, BLOCK_D], tl.float32)
        # from the diagonal to the end of the last key's document: no query after that sees any of these keys
        last = (tl.load(ends + block * BLOCK + BLOCK - 1) + INNER - 1) // INNER
        for number in range(block * (BLOCK // INNER), last):
            row = number * INNER + tl.arange(0, INNER)
            query = load_rows(q + offset, row, column, stride_t, D, BLOCK_D)
            above = load_rows(grad, row, column, grad_stride, D, BLOCK_D)
            distance = mine[:, None] - row[None, :]
            visible = (distance <= 0) & (mine[:, None] >= tl.load(starts + row)[None, :])
            # transposed: probabilities as [keys, queries] are the first operand of both products as they are
            score = tl.dot(key, tl.trans(query)) * root + slope * distance.to(tl.float32)
            probability = tl.exp2(tl.where(visible, score, float("-inf")) - tl.load(logsumexp + row)[None, :])
            grad_value += tl.dot(probability.to(above.dtype), above)
            # softmax's gradient: p * (dp - delta), delta being what all keys of the row have in common
            change = probability * (tl.dot(value, tl.trans(above)) - tl.load(delta + row)[None, :])
            grad_key += tl.dot(change.to(query.dtype), query)
        # keys were used raw, so this is the raw key's gradient: ks is in q' already
        store_rows(grad_key * sqrt, dk + offset, mine, column, stride_t, D, BLOCK_D)
        store_rows(grad_value * by, dv + offset, mine, column, stride_t, D, BLOCK_D)
    else:  # the gradient of a block of queries: the keys that it sees
        begin = tl.load(starts + mine)
        query = load_rows(q + offset, mine, column, stride_t, D, BLOCK_D)
        above = (load_rows(grad, mine, column, grad_stride, D, BLOCK_D) * by).to(grad.dtype.element_ty)
        level = tl.load(logsumexp + mine)
        row_sum = tl.load(delta + mine)
        grad_query = tl.zeros([BLOCK, BLOCK_D], tl.float32)
        for number in range(tl.load(starts + block * BLOCK) // INNER, (block + 1) * (BLOCK // INNER)):
            other = number * INNER + tl.arange(0, INNER)
            key = load_rows(k + offset, other, column, stride_t, D, BLOCK_D)
            value = load_rows(v + offset, other, column, stride_t, D, BLOCK_D)
            probability = tl.exp2(masked_scores(query, key, mine, other, begin, slope, root) - level[:, None])
            change = tl.dot(above, tl.trans(value)) - row_sum[:, None]
            grad_query += tl.dot((probability * change).to(key.dtype), key)
        # q' = (raw * qs + qb) * ks, so both scales stand between its gradient and the raw query's
        both = load_vector(ks + offset, column, D) * load_vector(qs + offset, column, D) * sqrt
        store_rows(grad_query * both[None, :], dq + offset, mine, column, stride_t, D, BLOCK_D)


def attention_grad(
    qkv: Three,
    scale: Three,
    bias: Three,
    context_TW: torch.Tensor,
    logsumexp: torch.Tensor,
    grad_TW: torch.Tensor,
    grads: Three,
    *,
    start_T: torch.Tensor,
    end_T: torch.Tensor,
    slopes_H: torch.Tensor,
    order: int = NATURAL_ORDER,
) -> None:
    """Writes the gradients of the raw query, key and value into `grads`, strided as `qkv`. `context_TW` and
    `logsumexp` are those of `attention`, which left q' in `qkv`. Rows of the context and of its gradient may be
    wider."""
    q, k, v = qkv
    T, H, D = q.shape
    check_fused(qkv, scale, bias)
    assert all(g.stride() == q.stride() for g in grads) and context_TW.stride(1) == grad_TW.stride(1) == 1
    # by strides of their own: with LoRA on `dense` its x A^T stands beside the context
    assert len(context_TW) == len(grad_TW) == T and min(context_TW.shape[1], grad_TW.shape[1]) >= H * D
    assert end_T.dtype == start_T.dtype == torch.int32 and len(end_T) == T
    delta = torch.empty_like(logsumexp)
    attention_delta_kernel[(T // BLOCK, H)](
        context_TW, grad_TW, bias[2], delta, q.stride(1), context_TW.stride(0), grad_TW.stride(0), T, H,
        ORDER=order, **sizes(D, num_warps=4),
    )  # fmt: skip
    attention_grad_kernel[(2, T // BLOCK, H)](  # both halves of a block side by side, while what they read lies in the L2 cache
        q, k, v, *scale, grad_TW, logsumexp, delta, *grads, start_T, end_T, slopes_H, q.stride(0), q.stride(1), grad_TW.stride(0), T, H,
        LOG2E.value / D**0.5, 1 / D**0.5, **sizes(D, **TILE),
    )  # fmt: skip
