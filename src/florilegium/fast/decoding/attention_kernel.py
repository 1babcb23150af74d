"""The Triton kernel of decoding's attention: rows of tokens over the cache of their own slots.

Shapes: M rows, S positions of the cache, H heads, D head dimension."""

# ruff: noqa: E741, N803
# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-any-return"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from florilegium.fast.kernel_math import LOG2E
from florilegium.fast.unpack_kernel import mma_column_order

# the fastest of 36 on an H100, for one text, 64, and a prompt
TILE = {"BLOCK_M": 16, "BLOCK_S": 64, "STAGES": 3, "num_warps": 4}


@triton.jit(do_not_specialize=["M"])
def cached_attention_kernel(
    query, keys, values, slot, position, slopes, out, M, H, S, D,
    ORDER: tl.constexpr, STAGES: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Reference: out[m] = torch.softmax(query[m] @ keys[slot[m], :, : p + 1].mT / D**0.5 + slopes * (s - p), -1) @
    values[slot[m], :, : p + 1]      with p = position[m], s = 0 .. p

    query [M, H * D]; keys, values [slots, H, S, D]; out [M, H * D], its columns in ORDER. One program a row and head.

    Rows of one slot lie side by side, all with a position or none. Those in the same BLOCK_M read its keys together:
    the first of them works for all, the others' programs end at once. Every row sums its blocks of positions in the
    same order whoever reads them with it, and what lies beyond its own position adds zeros: so a prompt's rows get the
    bits that they would get alone."""
    m, h = tl.program_id(0), tl.program_id(1)
    group = m // BLOCK_M * BLOCK_M
    row = m + tl.arange(0, BLOCK_M)
    whole = row < tl.minimum(group + BLOCK_M, M)
    # all at once, though few of the rows are this slot's: one load that waited for another would take a microsecond more
    mine, own_position, before = tl.load(slot + m), tl.load(position + m), tl.load(slot + tl.maximum(m - 1, 0))
    slots, positions = tl.load(slot + row, mask=whole, other=-1), tl.load(position + row, mask=whole, other=-1)
    slope = tl.load(slopes + h) * LOG2E
    follows = (m > group) & (before == mine)
    if (mine >= 0) & (own_position >= 0) & (follows == 0):
        same = slots == mine
        p = tl.where(same, positions, -1)
        last = tl.max(p, 0)
        d = tl.arange(0, BLOCK_D)
        there = d < D
        at_query = row[:, None] * (H * D) + (h * D + d)[None, :]
        # A tile of 16 rows even for one: the matrix unit takes no fewer, and without it this was slower. What other
        # slots' rows become is not written.
        q = tl.load(query + at_query, mask=whole[:, None] & there[None, :], other=0.0)
        root = 1.4426950408889634 / tl.sqrt(D.to(tl.float32))  # log2(e): scores are to the base 2
        start = (mine.to(tl.int64) * H + h) * S * D
        top = tl.full([BLOCK_M], float("-inf"), tl.float32)
        total = tl.zeros([BLOCK_M], tl.float32)
        acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
        for first in tl.range(0, last + 1, BLOCK_S, num_stages=STAGES):
            s = first + tl.arange(0, BLOCK_S)
            # beyond the last position lie an earlier text's keys, or nothing
            real = (s <= last)[:, None] & there[None, :]
            at = start + s[:, None] * D + d[None, :]
            k = tl.load(keys + at, mask=real, other=0.0)
            v = tl.load(values + at, mask=real, other=0.0)
            # ieee: a cache in float32 (tests) is not to be rounded to TF32; bfloat16 is multiplied as ever
            score = tl.dot(q, tl.trans(k), input_precision="ieee") * root + slope * (s[None, :] - p[:, None])
            score = tl.where(s[None, :] <= p[:, None], score, float("-inf"))
            higher = tl.maximum(top, tl.max(score, 1))
            safe = tl.where(higher == float("-inf"), 0.0, higher)  # rows of the tile that are no row of this slot
            probability, shrink = tl.exp2(score - safe[:, None]), tl.exp2(top - safe)
            total = total * shrink + tl.sum(probability, 1)
            acc = tl.dot(probability.to(v.dtype), v, acc * shrink[:, None], input_precision="ieee")
            top = higher
        # 1: rows of the tile that are not this slot's sum to 0, and are not written
        y = acc / tl.where(same, total, 1.0)[:, None]
        to = row[:, None] * (H * D) + mma_column_order(h * D + d, ORDER)[None, :]
        tl.store(out + to, y.to(out.dtype.element_ty), mask=same[:, None] & there[None, :])


def cached_attention(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    slot: torch.Tensor,
    position: torch.Tensor,
    slopes_H: torch.Tensor,
    out: torch.Tensor,
    M: int,
    order: int,
) -> None:
    """Each row's attention over its own slot of the cache, `keys` and `values` [slots, H, S, D]; rows without a
    position are left alone."""
    _, H, S, D = keys.shape
    assert keys.stride() == values.stride() and keys.is_contiguous() and D <= 128
    assert query.is_contiguous() and out.is_contiguous() and query.shape[1] == out.shape[1] == H * D
    cached_attention_kernel[(M, H)](
        query, keys, values, slot, position, slopes_H, out, M, H, S, D,
        ORDER=order, BLOCK_D=max(16, triton.next_power_of_2(D)), **TILE,
    )  # fmt: skip
