"""The Triton kernel of decoding's matmuls: a few rows times a frozen weight that is read as it is stored, once, and
dequantised in registers.

    out[m, n] = sum_k x[m, k] * weight[n, k]        weight: int8, NF4 with a block scale for 64 of them, or 16 bits

Writing a token is bound by reading the weights, so nothing of them may be written back or read twice. What follows each
product in a BLOOM block is done on the way (`EPILOGUE`), the adapter's part with it: the sums alone (PARTIAL), scale,
bias and GELU (GELU), scale and bias, with query, keys and values stored where attention reads them (QKV), or scores
(SCORES).

A row's result does not depend on its neighbours, bit by bit: for a given weight the order of its sum is one and the
same, whatever the number of rows. Tiles only grow in M, and the split of K is the weight's own; that the matrix unit's
own order does not depend on the tile was seen on an H100 and an H200. It makes a text the same in every batch. Shapes: M rows, N
outputs, K inputs, R rank of an adapter (a power of two from 16), S positions of the cache, D head dimension."""

# ruff: noqa: E741, N803
# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-any-return"

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from florilegium.fast.decoding.stored_weight import StoredWeight, is_roomy, tile
from florilegium.fast.kernel_math import gelu_and_gate
from florilegium.fast.unpack_kernel import int8_tile, mma_column_order, nf4_tile

# What is done with the sums of a tile.
PARTIAL, GELU, QKV, SCORES = 0, 1, 2, 3
LORA_COLUMNS = 64  # of adapters that are multiplied at once
_PARTIAL, _GELU, _QKV, _SCORES = (
    tl.constexpr(kind) for kind in (PARTIAL, GELU, QKV, SCORES)
)  # as the kernel reads them


@triton.jit
def _add_lora(
    y, lora_b, lora_x_at, place, listed, read, m, M, N, R: tl.constexpr, PART: tl.constexpr, TOGETHER: tl.constexpr
):
    """Reference: y[:, i] += lora_b[place[m[i]]] @ lora_x_at[m[i]]      y [BN, BM] float32, lora_b [places, N, R].

    TOGETHER 0: there is one adapter. Else so many of the step's are multiplied at once: a row's own columns hold its
    x A^T and all others zeros, which add nothing. So its sum is one and the same whatever adapters stand beside it."""
    if TOGETHER == 0:
        # In parts of 64: a rank of 256 at once would not fit beside the sums.
        for part in tl.static_range(0, R, PART):
            r = part + tl.arange(0, PART)
            b = tl.load(lora_b + read[:, None] * R + r[None, :])
            # rows of slots without LoRA hold zeros here (`block_kernel.py`)
            y = tl.dot(b, tl.load(lora_x_at + m[None, :] * R + r[:, None]), y)
    else:
        mine = tl.load(place + m, mask=m < M, other=-1)
        column = tl.arange(0, TOGETHER * PART)
        parts: tl.constexpr = R // PART  # more than one only where TOGETHER is 1
        for first in tl.range(0, tl.load(listed) * parts, TOGETHER, num_stages=2):
            unit = first + column // PART
            one = tl.load(listed + 1 + unit // parts)  # -1 beyond the last
            r = unit % parts * PART + column % PART
            b = tl.load(lora_b + (tl.maximum(one, 0).to(tl.int64)[None, :] * N + read[:, None]) * R + r[None, :])
            own = (one[:, None] == mine[None, :]) & (one >= 0)[:, None]
            y = tl.dot(b, tl.load(lora_x_at + m[None, :] * R + r[:, None], mask=own, other=0.0), y)
    return y


@triton.jit(do_not_specialize=["M", "capacity"])
def stored_matmul_kernel(
    x, weight, scale, bias, out, table, block_scales,
    lora_b, lora_x_at, place, listed, keys, values, slot, position, heads, capacity, M, N, K,
    EPILOGUE: tl.constexpr, BITS: tl.constexpr, ORDER: tl.constexpr, R: tl.constexpr, PART: tl.constexpr,
    TOGETHER: tl.constexpr, ALONE: tl.constexpr, D: tl.constexpr, SPLIT: tl.constexpr, WHOLE: tl.constexpr, ASM: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Reference: y = x @ dequantized(weight).T

    With l[m] = lora_b[place[m]] @ lora_x_at[m], 0 where R is 0 or place[m] is -1: PARTIAL: out[split] = a split's part of
    y, the first with l, unscaled. SCORES: out = y * scale (of int8). GELU: out = F.gelu(y * scale + bias + l, approximate="tanh"), its
    columns in ORDER. QKV: y * scale + bias + l; its queries go to out [M, heads * D], keys and values to
    [slots, heads, capacity, D] at the rows' slots and positions.

    ALONE: one adapter of a small rank, whose B is in registers before the sums are made.

    x [M padded, K], its columns in ORDER; weight [N, K] in BITS; out [SPLIT, M, N] float32, or [M, N]. A program makes
    the outputs BN of BM rows."""
    tiles = tl.cdiv(M, BM)
    # Rows change fastest: programs side by side read the same weights, which so come from memory once.
    m = (tl.program_id(0) % tiles) * BM + tl.arange(0, BM)
    n = ((tl.program_id(0) // tiles) * BN + tl.arange(0, BN)).to(tl.int64)  # 64 bits: n * K passes 2^31 in the head
    split = tl.program_id(1)
    inside = n < N
    read = n if WHOLE else tl.minimum(n, N - 1)  # rows beyond the last are read as the last, and not written
    # said to the compiler, which cannot know it: else a thread would load 8 bytes at a time, or 4, and not 16
    first = tl.multiple_of(split * (K // SPLIT), 64)
    kk = tl.arange(0, BK)
    # What follows the loop is on its way while the weights are read: after it each load would take a microsecond.
    if EPILOGUE != _PARTIAL and (EPILOGUE != _SCORES or BITS == 8):
        factor = tl.load(scale + n, mask=inside, other=0.0)
    if EPILOGUE == _GELU or EPILOGUE == _QKV:  # noqa: SIM109  # the compiler knows no tuples of them
        shift = tl.load(bias + n, mask=inside, other=0.0).to(tl.float32)
    if EPILOGUE == _QKV:
        s = tl.load(slot + m, mask=m < M, other=-1)
        p = tl.load(position + m, mask=m < M, other=-1)
    if R > 0 and ALONE:
        r = tl.arange(0, R)
        b = tl.load(lora_b + read[:, None] * R + r[None, :])
        # rows of slots without LoRA hold zeros here (`block_kernel.py`)
        x_at = tl.load(lora_x_at + m[None, :] * R + r[:, None])
    # [outputs, rows], the weight as first operand: the unit takes that one from registers, where it is dequantised.
    acc = tl.zeros([BN, BM], tl.float32)
    for k in tl.range(first, first + K // SPLIT, BK, num_stages=STAGES):
        # without a mask: x is padded to whole tiles of rows (`padded`)
        rows = tl.load(x + m[None, :] * K + (k + kk)[:, None])
        if BITS == 4:
            block_scale = tl.load(block_scales + k // 64 * N + read)
            # It belongs to 64 columns of one output, so it is applied to their sum, in float32.
            acc += tl.dot(nf4_tile(weight, read, k, K, table, x.dtype.element_ty, ASM, BN), rows) * block_scale[:, None]
        elif BITS == 8:
            acc = tl.dot(int8_tile(weight, read, k, K, x.dtype.element_ty, ASM, BN, BK), rows, acc)
        else:
            tile = tl.load(weight + read[:, None] * K + (k + kk)[None, :], eviction_policy="evict_first")
            acc = tl.dot(tile.to(rows.dtype), rows, acc)
    real = inside[:, None] & (m < M)[None, :]
    if EPILOGUE == _PARTIAL:
        if R > 0:  # noqa: SIM102  # the one is known when it is compiled, the other when it runs
            if split == 0:
                if ALONE:  # noqa: SIM108  # the two are compiled apart
                    acc = tl.dot(b, x_at, acc)
                else:
                    acc = _add_lora(acc, lora_b, lora_x_at, place, listed, read, m, M, N, R, PART, TOGETHER)
        # Parts are added by the norm that reads them, in one order; atomics would add them in any.
        tl.store(out + (split * M + m[None, :]).to(tl.int64) * N + n[:, None], acc, mask=real)
    elif EPILOGUE == _SCORES:
        if BITS == 8:
            acc *= factor[:, None]
        tl.store(out + m[None, :].to(tl.int64) * N + n[:, None], acc, mask=real)
    else:
        y = acc * factor[:, None] + shift[:, None]
        if R > 0 and ALONE:  # noqa: SIM108  # as above
            y = tl.dot(b, x_at, y)
        else:
            y = _add_lora(y, lora_b, lora_x_at, place, listed, read, m, M, N, R, PART, TOGETHER)
        if EPILOGUE == _GELU:
            y, _ = gelu_and_gate(y)
            to = m[None, :].to(tl.int64) * N + mma_column_order(n, ORDER)[:, None]  # `down` reads it, stored as `up` is
            tl.store(out + to, y.to(out.dtype.element_ty), mask=real)
        else:
            # BLOOM's fused projection lies head by head: query, key, value.
            head, part, d = n // (3 * D), (n // D) % 3, n % D
            y = y.to(out.dtype.element_ty)
            tl.store(out + m[None, :] * (heads * D) + (head * D + d)[:, None], y, mask=real & (part == 0)[:, None])
            to = ((s.to(tl.int64)[None, :] * heads + head[:, None]) * capacity + p[None, :]) * D + d[:, None]
            # Rows that are not worked on, of an ended text or of none, must not write into anybody's cache.
            real = real & (p >= 0)[None, :]
            tl.store(keys + to, y, mask=real & (part == 1)[:, None])
            tl.store(values + to, y, mask=real & (part == 2)[:, None])


class LoraOperands(NamedTuple):
    """B of the adapters in their places [P, N, R], the scaling in it, x A^T [M padded, R], each row's place (-1: none),
    and how many places this step's rows use, which, and -1 beyond."""

    b_PNR: torch.Tensor
    x_at_MR: torch.Tensor
    place_M: torch.Tensor
    listed: torch.Tensor


class CacheOperands(NamedTuple):
    """Keys and values [slots, heads, capacity, D], and each row's slot and position in them."""

    keys: torch.Tensor
    values: torch.Tensor
    slot_M: torch.Tensor
    position_M: torch.Tensor


def reads_b_early(R: int, BM: int, *, roomy: bool) -> bool:
    """Whether B of one adapter and its x A^T fit beside what is under way."""
    return BM <= 64 and (32 if roomy else 16) >= R


def stored_matmul(
    x: torch.Tensor,
    weight: StoredWeight,
    out: torch.Tensor,
    M: int,
    epilogue: int,
    *,
    lora: LoraOperands | None = None,
    cache: CacheOperands | None = None,
    split: int = 1,
) -> None:
    """`x` [M padded, K] (its columns in `weight.column_order`) times `weight` into `out`. K is a multiple of 64 *
    split."""
    N, K = weight.N, weight.K
    shape = tile(M, K, split, weight.bits, roomy=is_roomy(x.device))
    assert K % (64 * split) == 0 and (epilogue == PARTIAL or split == 1), "only parts of a sum can be split"
    assert x.is_contiguous() and x.shape[1] == K and len(x) >= -(-M // shape["BM"]) * shape["BM"], "x must be padded"
    assert (epilogue == QKV) == (cache is not None)
    b, lora_x_at, place, listed = lora or (x, x, x, x)  # pointers that the kernel does not follow
    places, _, R = b.shape if lora else (1, N, 0)
    part = min(R, 64) or 1
    together = 0 if places == 1 else LORA_COLUMNS // part
    alone = places == 1 and reads_b_early(R, shape["BM"], roomy=is_roomy(x.device))
    assert lora is None or (
        b.is_contiguous() and lora_x_at.is_contiguous() and (len(listed) - 1) % (together or 1) == 0
    )
    keys, values, slot, position = cache or (x, x, x, x)
    heads, capacity, D = keys.shape[1:] if cache else (1, 1, 1)
    stored_matmul_kernel[(triton.cdiv(M, shape["BM"]) * triton.cdiv(N, shape["BN"]), split)](
        x, weight.stored, weight.scale_N, weight.bias_N, out, *weight.nf4,
        b, lora_x_at, place, listed, keys, values, slot, position, heads, capacity, M, N, K,
        EPILOGUE=epilogue, BITS=weight.bits, ORDER=weight.column_order, R=R, PART=part, TOGETHER=together, ALONE=alone, D=D, SPLIT=split,
        WHOLE=N % shape["BN"] == 0, ASM=x.is_cuda, **shape,
    )  # fmt: skip
