"""The Triton kernels of decoding between the products (`matmul_kernel.py`): embedding, residual and norm, attention
over the cache.

A step works on M token rows. Row m belongs to `slot[m]` of the cache (-1: none) and stands at `place[m]` of its text
(-1: it is not to be worked on); all else follows from these two. No row's result depends on another's. Shapes: M rows,
W width, R rank of the adapter, S places, H heads, D head dimension."""

# ruff: noqa: E741, N803
# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-any-return"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from florilegium.fast.training.norm_gelu_kernel import _norm
from florilegium.fast.unpack_kernel import lane_order

# the fastest of 36 on an H100, for one text, 64, and a prompt
ATTEND = {"BLOCK_M": 16, "BLOCK_S": 64, "STAGES": 3, "num_warps": 4}


@triton.jit
def embed_rows(
    given_token, given_place, slot, next_token, length, done, table, gamma, beta, residual, place, W, eps,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """The row's token and place: given (a prompt's), or the slot's own next ones. residual = norm(embedding)."""
    m = tl.program_id(0)
    s = tl.load(slot + m)
    token = tl.load(given_token + m)
    p = tl.load(given_place + m)
    own = (token < 0) & (s >= 0)
    token = tl.where(own, tl.load(next_token + tl.maximum(s, 0)), tl.maximum(token, 0))
    ended = tl.load(done + tl.maximum(s, 0)) != 0
    p = tl.where(own, tl.where(ended, -1, tl.load(length + tl.maximum(s, 0))), p)
    tl.store(place + m, tl.where(s < 0, -1, p))
    column = tl.arange(0, BLOCK)
    inside = column < W
    x = tl.load(table + token.to(tl.int64) * W + column, mask=inside, other=0.0).to(tl.float32)
    unit, _ = _norm(x, inside, W, eps)
    g = tl.load(gamma + column, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(beta + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(residual + m.to(tl.int64) * W + column, unit * g + b, mask=inside)


@triton.jit(do_not_specialize=["M"])
def enter_rows(
    residual, partial, scale, bias, gamma, beta, after, normed, lora_a, adapter, slot, thin, rows, M, W, eps,
    ADD: tl.constexpr, SPLIT: tl.constexpr, R: tl.constexpr, EACH: tl.constexpr, GATHER: tl.constexpr, FORM: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """after = residual + sum(partial) * scale + bias; normed = norm(after); thin = normed A^T where the row's slot
    wears the adapter.

    Programs (m, 0) write `after` and `normed`; programs (m, 1...) make the norm again and EACH columns of `thin`.
    GATHER: program m works on row rows[m] and writes `normed` alone. FORM: that of the weight which reads `normed`."""
    m, part = tl.program_id(0), tl.program_id(1)
    column = tl.arange(0, BLOCK)
    inside = column < W
    # All that is frozen is on its way at once: read where it is needed, each would take a microsecond.
    g = tl.load(gamma + column, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(beta + column, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        factor = tl.load(scale + column, mask=inside, other=0.0)
        b = tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
    row = (tl.maximum(tl.load(rows + m), 0) if GATHER else m).to(tl.int64)
    x = tl.load(residual + row * W + column, mask=inside, other=0.0)
    if ADD:
        total = tl.load(partial + row * W + column, mask=inside, other=0.0)
        for s in tl.static_range(1, SPLIT):
            total += tl.load(partial + (s * M + row) * W + column, mask=inside, other=0.0)
        x += total * factor + b
    unit, _ = _norm(x, inside, W, eps)
    y = (unit * g + shift).to(normed.dtype.element_ty)
    if part == 0:
        if not GATHER:
            tl.store(after + row * W + column, x, mask=inside)
        tl.store(normed + m.to(tl.int64) * W + lane_order(column, FORM), y, mask=inside)
    elif R > 0:
        worn = tl.load(adapter + tl.maximum(tl.load(slot + m), 0)) != 0
        for i in tl.static_range(EACH):
            r = (part - 1) * EACH + i
            a = tl.load(lora_a + r * W + column, mask=inside, other=0.0).to(tl.float32)
            share = tl.where(worn, tl.sum(a * y.to(tl.float32), 0), 0.0)
            tl.store(thin + row * R + r, share.to(thin.dtype.element_ty))


@triton.jit(do_not_specialize=["M"])
def attend_rows(
    query, keys, values, slot, place, slopes, out, M, H, S, D,
    FORM: tl.constexpr, STAGES: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """softmax(q k / sqrt(D) + slope * (key - query)) v over the places 0 .. place of a row's slot, for one head.

    Rows of one slot lie side by side, all with a place or none. Those in the same BLOCK_M read its keys together: the
    first of them works for all, the others' programs end at once. Every row sums its blocks of places in the same order
    whoever reads them with it, and what lies beyond its own place adds zeros: so a prompt's rows get the bits that they
    would get alone."""
    m, h = tl.program_id(0), tl.program_id(1)
    mine = tl.load(slot + m)
    group = m // BLOCK_M * BLOCK_M
    follows = (m > group) & (tl.load(slot + tl.maximum(m - 1, 0)) == mine)
    if (mine >= 0) & (tl.load(place + m) >= 0) & (follows == 0):
        row = m + tl.arange(0, BLOCK_M)
        same = tl.load(slot + row, mask=row < tl.minimum(group + BLOCK_M, M), other=-1) == mine
        p = tl.load(place + row, mask=same, other=-1)
        last = tl.max(p, 0)
        d = tl.arange(0, BLOCK_D)
        there = d < D
        own = same[:, None] & there[None, :]
        at_query = row[:, None] * (H * D) + (h * D + d)[None, :]
        q = tl.load(query + at_query, mask=own, other=0.0)
        root = 1.4426950408889634 / tl.sqrt(D.to(tl.float32))
        slope = tl.load(slopes + h) * 1.4426950408889634
        start = (mine.to(tl.int64) * H + h) * S * D
        top = tl.full([BLOCK_M], float("-inf"), tl.float32)
        total = tl.zeros([BLOCK_M], tl.float32)
        acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
        for first in tl.range(0, last + 1, BLOCK_S, num_stages=STAGES):
            s = first + tl.arange(0, BLOCK_S)
            real = (s <= last)[:, None] & there[None, :]
            at = start + s[:, None] * D + d[None, :]
            k = tl.load(keys + at, mask=real, other=0.0)
            v = tl.load(values + at, mask=real, other=0.0)
            score = tl.dot(q, tl.trans(k), input_precision="ieee") * root + slope * (s[None, :] - p[:, None])
            score = tl.where(s[None, :] <= p[:, None], score, float("-inf"))
            higher = tl.maximum(top, tl.max(score, 1))
            safe = tl.where(higher == float("-inf"), 0.0, higher)
            share, shrink = tl.exp2(score - safe[:, None]), tl.exp2(top - safe)
            total = total * shrink + tl.sum(share, 1)
            acc = tl.dot(share.to(v.dtype), v, acc * shrink[:, None], input_precision="ieee")
            top = higher
        y = acc / tl.where(same, total, 1.0)[:, None]
        to = row[:, None] * (H * D) + lane_order(h * D + d, FORM)[None, :]
        tl.store(out + to, y.to(out.dtype.element_ty), mask=own)


def _row(W: int) -> dict[str, Any]:
    block = triton.next_power_of_2(W)
    return {"BLOCK": block, "num_warps": min(8, max(1, block // 512))}


def embed(state: Any, inputs: Any, bloom: Any, residual_MW: torch.Tensor, M: int) -> None:
    """`inputs` has token, place and slot as given, `state` the slots' own; writes `residual_MW` and `state.place`."""
    norm = bloom.word_embeddings_layernorm
    table = bloom.word_embeddings.weight
    kernel: Any = embed_rows
    kernel[(M,)](
        inputs.token, inputs.place, inputs.slot, state.next_token, state.length, state.done, table, norm.weight, norm.bias,
        residual_MW, state.place, table.shape[1], norm.eps, **_row(table.shape[1]),
    )  # fmt: skip


def enter(
    residual_MW: torch.Tensor,
    pending: Any,
    norm: Any,
    after_MW: torch.Tensor,
    normed_MW: torch.Tensor,
    M: int,
    form: int,
    *,
    lora: Any = None,
    rows: Any = None,
    num_rows: int = 0,
) -> None:
    """Adds the `pending` product (partial, weight, split) to the residual stream and norms it for a weight of that
    form. `lora`: (A [R, W], adapter, slot, thin). With `rows`, only those `num_rows` rows of the M are normed, and
    nothing else is written."""
    W = residual_MW.shape[1]
    partial, scale, bias, split = (
        (pending[0], pending[1].scale_N, pending[1].bias_N, pending[2]) if pending else (*(residual_MW,) * 3, 1)
    )
    a, adapter, slot, thin = lora or (residual_MW,) * 4
    R = a.shape[0] if lora else 0
    each = min(4, R)
    kernel: Any = enter_rows
    kernel[(num_rows if rows is not None else M, 1 + (R // each if R else 0))](
        residual_MW, partial, scale, bias, norm.weight, norm.bias, after_MW, normed_MW, a, adapter, slot, thin,
        residual_MW if rows is None else rows, M, W, norm.eps,
        ADD=pending is not None, SPLIT=split, R=R, EACH=each, GATHER=rows is not None, FORM=form, **_row(W),
    )  # fmt: skip


def attend(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, slot: torch.Tensor, place: torch.Tensor, slopes_H: torch.Tensor,
    out: torch.Tensor, M: int, form: int,
) -> None:  # fmt: skip
    """Each row's attention over its own slot of the cache, `keys` and `values` [slots, H, S, D]; rows without a place
    are left alone."""
    _, H, S, D = keys.shape
    kernel: Any = attend_rows
    kernel[(M, H)](
        query, keys, values, slot, place, slopes_H, out, M, H, S, D, FORM=form, BLOCK_D=max(16, triton.next_power_of_2(D)), **ATTEND,
    )  # fmt: skip


@triton.jit
def wanted_rows(wanted, slot, place, row_slot, row_place):
    q = tl.program_id(0)
    m = tl.load(wanted + q)
    tl.store(row_slot + q, tl.where(m < 0, -1, tl.load(slot + tl.maximum(m, 0))))
    tl.store(row_place + q, tl.where(m < 0, -1, tl.load(place + tl.maximum(m, 0))))


def rows_of(inputs: Any, state: Any, row_slot: torch.Tensor, row_place: torch.Tensor, Q: int) -> None:
    """Slot and place of each row whose next token is wanted."""
    kernel: Any = wanted_rows
    kernel[(Q,)](inputs.wanted, inputs.slot, state.place, row_slot, row_place)
