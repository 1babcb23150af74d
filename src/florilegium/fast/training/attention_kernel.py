"""The Triton kernel of training's attention, forward: causal ALiBi attention inside each document of a packed row
(`attention_grad_kernel.py` is its backward pass).

A document lies between `start` and `end`, so a block of queries reads keys from the start of its first document to its
own last row, and a block of keys is read by queries up to the end of its last document: what lies between other
documents is never touched, and no mask is stored. Documents of a quote's length fill about two blocks of 64.

Query, key and value are raw products of a quantised projection, x = raw * scale + bias, and keys and values are used
raw: with q' = q * scale_k the scores q' raw_k^T differ from q k^T by a number that is the same along a row, which
softmax does not see, and the bias of the values, whose probabilities sum to 1, is added at the end. The forward pass
leaves q' where the raw query was. The context's columns lie in ORDER (`unpack_kernel.py`). T must be a multiple of 64.
Shapes: T tokens, H heads, D head dimension."""

# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-any-return"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from florilegium.fast.kernel_math import LOG2E
from florilegium.fast.unpack_kernel import NATURAL_ORDER, mma_column_order, to_mma_order

BLOCK = 64  # rows of a program; it meets the rows of the other side INNER at a time
# The fastest of 33 tiles on an H100 at 768, 1,024 and 8,192 tokens, forward and backward.
TILE = {"INNER": 32, "num_warps": 4, "num_stages": 3}


@triton.jit
def load_rows(source, row, column, stride_t, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """[rows, D] of a strided [T, D]."""
    pointers = source + row[:, None].to(tl.int64) * stride_t + column[None, :]
    # Decided when it is compiled: heads of 64 and 128 numbers need no mask.
    if BLOCK_D == D:
        return tl.load(pointers)
    return tl.load(pointers, mask=column[None, :] < D, other=0.0)


@triton.jit
def load_vector(source, column, D: tl.constexpr):
    return tl.load(source + column, mask=column < D, other=0.0).to(tl.float32)


@triton.jit
def store_rows(values, to, row, column, stride_t, D: tl.constexpr, BLOCK_D: tl.constexpr):
    pointers = to + row[:, None].to(tl.int64) * stride_t + column[None, :]
    if BLOCK_D == D:
        tl.store(pointers, values.to(to.dtype.element_ty))
    else:
        tl.store(pointers, values.to(to.dtype.element_ty), mask=column[None, :] < D)


@triton.jit
def masked_scores(q, k, row, column, begin, slope, root):
    """Scores to the base 2, [queries, keys]; -inf where a query does not see the key."""
    distance = column[None, :] - row[:, None]
    # `begin` is the document's first row: earlier keys are another quote's
    visible = (distance <= 0) & (column[None, :] >= begin[:, None])
    # ALiBi in its relative form, slope * (key - query): the same wherever in the packed row the document lies
    return tl.where(visible, tl.dot(q, tl.trans(k)) * root + slope * distance.to(tl.float32), float("-inf"))


@triton.jit
def attention_kernel(
    q, k, v, qs, ks, vs, qb, vb, out, logsumexp, starts, slopes, stride_t, stride_h, out_stride, T, H, root,
    ORDER: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """Reference: out = torch.softmax(((q * qs + qb) @ (k * ks + kb).T / D**0.5 + slope * (j - i)).masked_fill(~visible,
    -inf), -1) @ (v * vs + vb)

    q, k, v [T, D] a head, rows `stride_t` and heads `stride_h` apart; scales and biases [H, D] by `stride_h`; out
    [T, H * D], rows `out_stride` apart; logsumexp [H, T], to the base 2. A program makes BLOCK queries of one head."""
    head = tl.program_id(1)
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    column = tl.arange(0, BLOCK_D)
    offset = head * stride_h
    # Everything to the base 2: exp2 is one instruction, exp is that and a multiplication.
    slope = tl.load(slopes + head) * LOG2E
    begin = tl.load(starts + row)
    query = load_rows(q + offset, row, column, stride_t, D, BLOCK_D).to(tl.float32)
    query = query * load_vector(qs + offset, column, D)[None, :]
    query = (query + load_vector(qb + offset, column, D)[None, :]) * load_vector(ks + offset, column, D)[None, :]
    # q' over the raw query: the backward pass reads it, and nothing reads the raw one again
    store_rows(query, q + offset, row, column, stride_t, D, BLOCK_D)
    query = query.to(q.dtype.element_ty)
    top = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    context = tl.zeros([BLOCK, BLOCK_D], tl.float32)
    # From the first document of this block to the diagonal: what other documents hold is never read.
    first = tl.load(starts + tl.program_id(0) * BLOCK) // INNER
    for number in range(first, (tl.program_id(0) + 1) * (BLOCK // INNER)):
        other = number * INNER + tl.arange(0, INNER)
        key = load_rows(k + offset, other, column, stride_t, D, BLOCK_D)
        value = load_rows(v + offset, other, column, stride_t, D, BLOCK_D)
        score = masked_scores(query, key, row, other, begin, slope, root)
        higher = tl.maximum(top, tl.max(score, 1))
        safe = tl.where(higher == float("-inf"), 0.0, higher)  # a row that sees nothing in this block yet
        probability = tl.exp2(score - safe[:, None])
        # what was summed before was measured against a lower maximum
        shrink = tl.exp2(top - safe)
        total = total * shrink + tl.sum(probability, 1)
        context = context * shrink[:, None] + tl.dot(probability.to(value.dtype), value)
        top = higher
    context = context / total[:, None] * load_vector(vs + offset, column, D)[None, :]
    # the values' bias comes last and whole: a row's probabilities sum to 1
    context = context + load_vector(vb + offset, column, D)[None, :]
    context = context.to(out.dtype.element_ty)
    if D % 64 == 0:
        # whole groups of 64 columns: they can change places in registers, and stores stay side by side
        store_rows(to_mma_order(context, ORDER, BLOCK, D), out + head * D, row, column, out_stride, D, BLOCK_D)
    else:  # a head begins inside 64 columns
        to = out + row[:, None].to(tl.int64) * out_stride + mma_column_order(head * D + column, ORDER)[None, :]
        tl.store(to, context, mask=(column < D)[None, :])
    tl.store(logsumexp + head * T + row, top + tl.log2(total))


def sizes(D: int, **options: int) -> dict[str, int]:
    """The constants of a head of D numbers: the matrix unit takes powers of two from 16."""
    return {"D": D, "BLOCK_D": max(16, triton.next_power_of_2(D)), "BLOCK": BLOCK, **options}


Three = tuple[torch.Tensor, ...]  # query, key and value, views of one fused projection


def check_fused(qkv: Three, scale: Three, bias: Three) -> None:
    """One pair of strides serves all three, and a row of scales and biases lies as a row of them does."""
    T, _, D = qkv[0].shape
    assert T % BLOCK == 0, f"{T} tokens are no multiple of {BLOCK}: the last rows would be left out"
    assert D <= 128, "a wider head does not fit the registers of a tile"
    assert all(t.shape == qkv[0].shape and t.stride() == qkv[0].stride() and t.stride(2) == 1 for t in qkv)
    assert all(t.stride() == qkv[0].stride()[1:] for t in (*scale, *bias))


def attention(
    qkv: Three,
    scale: Three,
    bias: Three,
    start_T: torch.Tensor,
    slopes_H: torch.Tensor,
    context_TW: torch.Tensor,
    order: int = NATURAL_ORDER,
) -> torch.Tensor:
    """Log-sum-exp [H, T]; `context_TW` (whose rows may be wider) gets the context, in the `order` of columns. `qkv`:
    the raw products, three [T, H, D] of like strides, the last 1; `scale` and `bias`: of each, three [H, D] with the
    strides of a row of `qkv`. The query is overwritten by q'."""
    q, k, v = qkv
    T, H, D = q.shape
    check_fused(qkv, scale, bias)
    assert start_T.dtype == torch.int32 and len(start_T) == T and len(slopes_H) == H
    assert len(context_TW) == T and context_TW.shape[1] >= H * D and context_TW.stride(1) == 1
    logsumexp = torch.empty(H, T, dtype=torch.float32, device=q.device)
    attention_kernel[(T // BLOCK, H)](
        q, k, v, *scale, bias[0], bias[2], context_TW, logsumexp, start_T, slopes_H, q.stride(0), q.stride(1), context_TW.stride(0),
        T, H, LOG2E.value / D**0.5, ORDER=order, **sizes(D, **TILE),
    )  # fmt: skip
    return logsumexp
