"""The Triton kernels of `flex_attention.py`: causal ALiBi attention inside each document of a packed row, forward and
backward.

A document lies between `start` and `end`, so a block of queries reads keys from the start of its first document to its
own last row, and a block of keys is read by queries up to the end of its last document: what lies between other
documents is never touched, and no mask is stored. Documents of a quote's length fill about two blocks of 64.

Query, key and value are raw products of a quantised projection, x = raw * scale + bias, and keys and values are used
raw: with q' = q * scale_k the scores q' raw_k^T differ from q k^T by a number that is the same along a row, which
softmax does not see, and the bias of the values, whose shares sum to 1, is added at the end. The forward pass leaves q'
where the raw query was. The gradients that are written are those of the raw products. The context's columns lie in the
lane order of FORM (`unpack_kernel.py`). T must be a multiple of 64.

The backward pass is that of FlashAttention-2 (Dao 2023, arXiv:2307.08691): probabilities are made again from the saved
log-sum-exp (here to the base 2). Nothing is added atomically, so the same input gives the same bits. Shapes: T tokens,
H heads, D head dimension."""

# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-any-return"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from florilegium.fast.unpack_kernel import in_lane_order, lane_order

BLOCK = 64  # rows of a program; it meets the others OTHER at a time
LOG2E = 1.4426950408889634
# The fastest of 33 tiles on an H100 at 768, 1,024 and 8,192 tokens, forward and backward.
TILE = {"OTHER": 32, "num_warps": 4, "num_stages": 3}


@triton.jit
def _rows(source, row, column, stride_t, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """[rows, D] of a strided [T, D]."""
    place = source + row[:, None].to(tl.int64) * stride_t + column[None, :]
    if BLOCK_D == D:
        return tl.load(place)
    return tl.load(place, mask=column[None, :] < D, other=0.0)


@triton.jit
def _vector(source, column, D: tl.constexpr):
    return tl.load(source + column, mask=column < D, other=0.0).to(tl.float32)


@triton.jit
def _write(values, to, row, column, stride_t, D: tl.constexpr, BLOCK_D: tl.constexpr):
    place = to + row[:, None].to(tl.int64) * stride_t + column[None, :]
    if BLOCK_D == D:
        tl.store(place, values.to(to.dtype.element_ty))
    else:
        tl.store(place, values.to(to.dtype.element_ty), mask=column[None, :] < D)


@triton.jit
def _scores(q, k, row, column, begin, slope, root):
    """Scores to the base 2, [queries, keys]; -inf where a query may not look."""
    distance = column[None, :] - row[:, None]
    seen = (distance <= 0) & (column[None, :] >= begin[:, None])
    return tl.where(seen, tl.dot(q, tl.trans(k)) * root + slope * distance.to(tl.float32), float("-inf"))


@triton.jit
def attend_forward(
    q, k, v, qs, ks, vs, qb, vb, out, lse, starts, slopes, stride_t, stride_h, T, H, root,
    FORM: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK: tl.constexpr, OTHER: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1)
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    column = tl.arange(0, BLOCK_D)
    place = head * stride_h
    slope = tl.load(slopes + head) * 1.4426950408889634
    begin = tl.load(starts + row)
    query = _rows(q + place, row, column, stride_t, D, BLOCK_D).to(tl.float32) * _vector(qs + place, column, D)[None, :]
    query = (query + _vector(qb + place, column, D)[None, :]) * _vector(ks + place, column, D)[None, :]
    _write(query, q + place, row, column, stride_t, D, BLOCK_D)
    query = query.to(q.dtype.element_ty)
    top = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    context = tl.zeros([BLOCK, BLOCK_D], tl.float32)
    first = tl.load(starts + tl.program_id(0) * BLOCK) // OTHER
    for number in range(first, (tl.program_id(0) + 1) * (BLOCK // OTHER)):
        other = number * OTHER + tl.arange(0, OTHER)
        key = _rows(k + place, other, column, stride_t, D, BLOCK_D)
        value = _rows(v + place, other, column, stride_t, D, BLOCK_D)
        score = _scores(query, key, row, other, begin, slope, root)
        higher = tl.maximum(top, tl.max(score, 1))
        safe = tl.where(higher == float("-inf"), 0.0, higher)  # a row that sees nothing in this block yet
        share = tl.exp2(score - safe[:, None])
        old = tl.exp2(top - safe)
        total = total * old + tl.sum(share, 1)
        context = context * old[:, None] + tl.dot(share.to(value.dtype), value)
        top = higher
    context = (
        context / total[:, None] * _vector(vs + place, column, D)[None, :] + _vector(vb + place, column, D)[None, :]
    )
    context = context.to(out.dtype.element_ty)
    if D % 64 == 0:
        _write(in_lane_order(context, FORM, BLOCK, D), out + head * D, row, column, H * D, D, BLOCK_D)
    else:  # a head begins inside 64 columns
        to = out + row[:, None].to(tl.int64) * (H * D) + lane_order(head * D + column, FORM)[None, :]
        tl.store(to, context, mask=(column < D)[None, :])
    tl.store(lse + head * T + row, top + tl.log2(total))


@triton.jit
def attend_prepare(
    out,
    grad,
    vb,
    delta,
    stride_h,
    T,
    H,
    FORM: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """delta = the sum over D of the gradient times (context - bias_v)."""
    head = tl.program_id(1)
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    column = tl.arange(0, BLOCK_D)
    place = head * stride_h
    above = _rows(grad + head * D, row, column, H * D, D, BLOCK_D).to(tl.float32)
    bias = _vector(vb + place, column, D)[None, :]
    if D % 64 == 0:  # a sum minds no order, so the gradient is brought into the context's
        after = _rows(out + head * D, row, column, H * D, D, BLOCK_D).to(tl.float32) - in_lane_order(bias, FORM, 1, D)
        less = tl.sum(in_lane_order(above, FORM, BLOCK, D) * after, 1)
    else:
        context = out + row[:, None].to(tl.int64) * (H * D) + lane_order(head * D + column, FORM)[None, :]
        less = tl.sum(above * (tl.load(context, mask=(column < D)[None, :], other=0.0).to(tl.float32) - bias), 1)
    tl.store(delta + head * T + row, less)


@triton.jit
def attend_backward(
    q, k, v, qs, ks, vs, grad, lse, delta, dq, dk, dv, starts, ends, slopes, stride_t, stride_h, T, H, root, sqrt,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK: tl.constexpr, OTHER: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(2)
    block = tl.program_id(1)
    mine = block * BLOCK + tl.arange(0, BLOCK)
    column = tl.arange(0, BLOCK_D)
    place = head * stride_h
    slope = tl.load(slopes + head) * 1.4426950408889634
    lse += head * T
    delta += head * T
    grad += head * D
    by = _vector(vs + place, column, D)[None, :]  # the gradient of a raw value is its share of the gradient times this
    # the gradients of a block of keys and values: the queries that see it, scores [keys, queries]
    if tl.program_id(0) == 0:
        key = _rows(k + place, mine, column, stride_t, D, BLOCK_D)
        value = (_rows(v + place, mine, column, stride_t, D, BLOCK_D) * by).to(v.dtype.element_ty)
        grad_key = tl.zeros([BLOCK, BLOCK_D], tl.float32)
        grad_value = tl.zeros([BLOCK, BLOCK_D], tl.float32)
        last = (tl.load(ends + block * BLOCK + BLOCK - 1) + OTHER - 1) // OTHER
        for number in range(block * (BLOCK // OTHER), last):
            row = number * OTHER + tl.arange(0, OTHER)
            query = _rows(q + place, row, column, stride_t, D, BLOCK_D)
            above = _rows(grad, row, column, H * D, D, BLOCK_D)
            distance = mine[:, None] - row[None, :]
            seen = (distance <= 0) & (mine[:, None] >= tl.load(starts + row)[None, :])
            score = tl.dot(key, tl.trans(query)) * root + slope * distance.to(tl.float32)
            share = tl.exp2(tl.where(seen, score, float("-inf")) - tl.load(lse + row)[None, :])
            grad_value += tl.dot(share.to(above.dtype), above)
            change = share * (tl.dot(value, tl.trans(above)) - tl.load(delta + row)[None, :])
            grad_key += tl.dot(change.to(query.dtype), query)
        _write(grad_key * sqrt, dk + place, mine, column, stride_t, D, BLOCK_D)
        _write(grad_value * by, dv + place, mine, column, stride_t, D, BLOCK_D)
    else:  # the gradient of a block of queries: the keys that it sees
        begin = tl.load(starts + mine)
        query = _rows(q + place, mine, column, stride_t, D, BLOCK_D)
        above = (_rows(grad, mine, column, H * D, D, BLOCK_D) * by).to(grad.dtype.element_ty)
        level = tl.load(lse + mine)
        less = tl.load(delta + mine)
        grad_query = tl.zeros([BLOCK, BLOCK_D], tl.float32)
        for number in range(tl.load(starts + block * BLOCK) // OTHER, (block + 1) * (BLOCK // OTHER)):
            other = number * OTHER + tl.arange(0, OTHER)
            key = _rows(k + place, other, column, stride_t, D, BLOCK_D)
            value = _rows(v + place, other, column, stride_t, D, BLOCK_D)
            share = tl.exp2(_scores(query, key, mine, other, begin, slope, root) - level[:, None])
            change = tl.dot(above, tl.trans(value)) - less[:, None]
            grad_query += tl.dot((share * change).to(key.dtype), key)
        both = _vector(ks + place, column, D) * _vector(qs + place, column, D) * sqrt
        _write(grad_query * both[None, :], dq + place, mine, column, stride_t, D, BLOCK_D)


def _sizes(D: int, **options: int) -> dict[str, Any]:
    return {"D": D, "BLOCK_D": max(16, triton.next_power_of_2(D)), "BLOCK": BLOCK, **options}


Three = tuple[torch.Tensor, ...]


def forward(
    qkv: Three, scale: Three, bias: Three, start_T: torch.Tensor, slopes_H: torch.Tensor, form: int = 16
) -> tuple[torch.Tensor, torch.Tensor]:
    """Context [T, H, D], in the order of columns that `form` wants, and log-sum-exp [H, T]. `qkv`: the raw products,
    three [T, H, D] of like strides, the last 1; `scale` and `bias`: of each, three [H, D] with the strides of a row of
    `qkv`. The query is overwritten by q'."""
    q, k, v = qkv
    T, H, D = q.shape
    out = torch.empty(T, H, D, dtype=q.dtype, device=q.device)
    lse = torch.empty(H, T, dtype=torch.float32, device=q.device)
    kernel: Any = attend_forward
    kernel[(triton.cdiv(T, BLOCK), H)](
        q, k, v, *scale, bias[0], bias[2], out, lse, start_T, slopes_H, q.stride(0), q.stride(1), T, H, LOG2E / D**0.5,
        FORM=form, **_sizes(D, **TILE),
    )  # fmt: skip
    return out, lse


def backward(
    qkv: Three,
    scale: Three,
    bias: Three,
    out: torch.Tensor,
    lse: torch.Tensor,
    grad: torch.Tensor,
    grads: Three,
    start_T: torch.Tensor,
    end_T: torch.Tensor,
    slopes_H: torch.Tensor,
    form: int = 16,
) -> None:
    """Writes the gradients of the raw query, key and value into `grads`, strided as `qkv`. `out` is that of
    `forward`."""
    q, k, v = qkv
    T, H, D = q.shape
    delta = torch.empty_like(lse)
    blocks = triton.cdiv(T, BLOCK)
    first: Any = attend_prepare
    first[(blocks, H)](out, grad, bias[2], delta, q.stride(1), T, H, FORM=form, **_sizes(D, num_warps=4))
    kernel: Any = attend_backward
    kernel[(2, blocks, H)](  # both halves of a block side by side, while what they read lies in the L2 cache
        q, k, v, *scale, grad, lse, delta, *grads, start_T, end_T, slopes_H, q.stride(0), q.stride(1), T, H,
        LOG2E / D**0.5, 1 / D**0.5, **_sizes(D, **TILE),
    )  # fmt: skip
