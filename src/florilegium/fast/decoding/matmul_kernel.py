"""The Triton kernel of decoding: a few rows times a frozen weight that is read as it is stored, once, and made wide in
registers.

    out[m, n] = sum_k x[m, k] * weight[n, k]        weight: int8 codes, NF4 codes with a level for 64 of them, or 16 bits

Writing a token is bound by reading the weights, so nothing of them may be written back or read twice. What follows each
product in a BLOOM block rides along (`KIND`): the sums alone (PARTIAL), scale, bias and GELU (GELU), scale, bias and
the adapter's part, with query, keys and values going to their places (QKV), or scores (SCORES).

A row's result does not depend on its neighbours, bit by bit: for a given weight the order of its sum is one and the
same, whatever the number of rows. Tiles only grow in M, and the split of K is the weight's own; that the matrix unit's
own order does not depend on the tile was seen on an H100. It makes a text the same in every batch. Shapes: M rows, N
outputs, K inputs, R rank of the adapter (a power of two from 16), S places of the cache, D head dimension."""

# ruff: noqa: E741, N803
# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-any-return"

from __future__ import annotations

import functools
from typing import Any

import torch
import triton
import triton.language as tl

from florilegium.fast.unpack_kernel import int8_tile, lane_order, nf4_tile

PARTIAL, GELU, QKV, SCORES = 0, 1, 2, 3


@triton.jit(do_not_specialize=["M", "places"])
def product_rows(
    x, weight, scale, bias, out, table, levels,
    lora_b, thin, scaling, keys, values, slot, place, heads, places, M, N, K,
    KIND: tl.constexpr, FORM: tl.constexpr, R: tl.constexpr, PART: tl.constexpr, D: tl.constexpr, SPLIT: tl.constexpr, WHOLE: tl.constexpr,
    ASM: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(M, BM)
    m = (tl.program_id(0) % tiles) * BM + tl.arange(0, BM)
    n = ((tl.program_id(0) // tiles) * BN + tl.arange(0, BN)).to(tl.int64)
    split = tl.program_id(1)
    inside = n < N
    read = n if WHOLE else tl.minimum(n, N - 1)  # rows beyond the last are read as the last, and not written
    first = split * (K // SPLIT)
    kk = tl.arange(0, BK)
    acc = tl.zeros([BN, BM], tl.float32)
    for k in tl.range(first, first + K // SPLIT, BK, num_stages=STAGES):
        if FORM == 4:
            for group in tl.static_range(0, BK, 64):
                rows = tl.load(x + m[None, :] * K + (k + group + tl.arange(0, 64))[:, None])
                level = tl.load(levels + (k + group) // 64 * N + read)
                codes = nf4_tile(weight, read, k + group, K, table, x.dtype.element_ty, ASM, BN)
                acc += tl.dot(codes, rows) * level[:, None]
        else:
            rows = tl.load(x + m[None, :] * K + (k + kk)[:, None])
            if FORM == 8:
                wide = int8_tile(weight, read, k, K, x.dtype.element_ty, ASM, BN, BK)
            else:
                wide = tl.load(weight + read[:, None] * K + (k + kk)[None, :], eviction_policy="evict_first").to(
                    rows.dtype
                )
            acc = tl.dot(wide, rows, acc)
    real = inside[:, None] & (m < M)[None, :]
    if KIND == 0:
        tl.store(out + (split * M + m[None, :]).to(tl.int64) * N + n[:, None], acc, mask=real)
    elif KIND == 3:
        tl.store(out + m[None, :].to(tl.int64) * N + n[:, None], acc, mask=real)
    else:
        y = (
            acc * tl.load(scale + n, mask=inside, other=0.0)[:, None]
            + tl.load(bias + n, mask=inside, other=0.0).to(tl.float32)[:, None]
        )
        if KIND == 1:
            y = y * tl.sigmoid(1.5957691216057308 * y * (1 + 0.044715 * y * y))
            to = m[None, :].to(tl.int64) * N + lane_order(n, FORM)[:, None]  # `down` reads it, and is stored as `up` is
            tl.store(out + to, y.to(out.dtype.element_ty), mask=real)
        else:
            if R > 0:
                for part_of_r in tl.static_range(0, R, PART):
                    r = part_of_r + tl.arange(0, PART)
                    b = tl.load(lora_b + read[:, None] * R + r[None, :])
                    y += tl.dot(b, tl.load(thin + m[None, :] * R + r[:, None])) * scaling
            # BLOOM's fused projection lies head by head: query, key, value.
            head, part, d = n // (3 * D), (n // D) % 3, n % D
            y = y.to(out.dtype.element_ty)
            tl.store(out + m[None, :] * (heads * D) + (head * D + d)[:, None], y, mask=real & (part == 0)[:, None])
            s = tl.load(slot + m, mask=m < M, other=-1)
            p = tl.load(place + m, mask=m < M, other=-1)
            to = ((s.to(tl.int64)[None, :] * heads + head[:, None]) * places + p[None, :]) * D + d[:, None]
            real = real & (p >= 0)[None, :]
            tl.store(keys + to, y, mask=real & (part == 1)[:, None])
            tl.store(values + to, y, mask=real & (part == 2)[:, None])


def split_of(N: int, K: int, form: int) -> int:
    """Into how many parts K is cut so that all multiprocessors have work: the weight's own, never the batch's. NF4 is
    bound by its arithmetic and wants more warps at a time."""
    split = 1
    while N * split < (16384 if form == 4 else 8192) and split < 8 and K % (split * 2 * 128) == 0:
        split *= 2
    return split


def padded(M: int) -> tuple[int, int]:
    """Rows of a tile for M rows, and M rounded up to whole tiles: what a buffer that the kernel reads must have."""
    BM = 16 if M <= 16 else 32 if M <= 32 else 64 if M <= 64 else 128
    return BM, -(-M // BM) * BM


def tile(M: int, K: int, split: int, form: int, roomy: bool) -> dict[str, Any]:
    """The tile for M rows. What is fastest for int8 and 16 bits was measured (`bench/generate/steps.py --tiles`).
    `roomy`: the multiprocessor has the shared memory of an A100 or H100; an RTX 3090's or 4090's holds a stage less."""
    BM = padded(M)[0]
    BK = next(b for b in (256 if form in (4, 8) and BM <= 64 else 128, 128, 64) if K % (split * b) == 0)
    if BM == 128:
        if form == 4:
            return {"BM": BM, "BN": 128, "BK": 64, "num_warps": 8, "STAGES": 3}
        wider = roomy and split > 1 and M % 256 == 0
        return {"BM": 256 if wider else BM, "BN": 128, "BK": 64, "num_warps": 8, "STAGES": 4 if roomy else 3}
    stages = (4 if BM <= 32 and form in (8, 16) else 3) - (not roomy)
    return {"BM": BM, "BN": 64, "BK": BK, "num_warps": 4, "STAGES": stages}


@functools.cache
def _roomy(device: torch.device) -> bool:
    if device.type != "cuda":
        return True
    driver: Any = triton.runtime.driver.active
    return bool(driver.utils.get_device_properties(device.index or 0)["max_shared_mem"] > 128 * 1024)


def launch(
    x: torch.Tensor,
    weight: Any,
    out: torch.Tensor,
    M: int,
    kind: int,
    *,
    lora: Any = None,
    cache: Any = None,
    split: int = 1,
    D: int = 1,
) -> None:
    """`x` [M padded, K] (in `lane_order`) times `weight` (`stored.Weight`) into `out`. `lora` is (B [N, R], thin [M
    padded, R], scaling), `cache` is (keys, values, slot, place, heads, places). K is a multiple of 64 * split."""
    N, K = weight.N, weight.K
    shape = tile(M, K, split, weight.form, _roomy(x.device))
    b, thin, scaling = lora or (x, x, 1.0)
    keys, values, slot, place, heads, places = cache or (x, x, x, x, 1, 1)
    kernel: Any = product_rows
    kernel[(triton.cdiv(M, shape["BM"]) * triton.cdiv(N, shape["BN"]), split)](
        x, weight.codes, weight.scale_N, weight.bias_N, out, *weight.nf4,
        b, thin, scaling, keys, values, slot, place, heads, places, M, N, K,
        KIND=kind, FORM=weight.form, R=b.shape[1] if lora else 0, PART=min(b.shape[1], 64) if lora else 1,
        D=D, SPLIT=split, WHOLE=N % shape["BN"] == 0, ASM=x.is_cuda, **shape,
    )  # fmt: skip
