"""The Triton kernels of LoRA's low-rank matmuls in training (`forward_pass.py`): the down-projection x A^T, its
gradient, and B written where the quantised matmul reads it. `lora_grad_kernel.py` has the other gradients.

A product with 16 columns is bound by its launches, and cuBLAS splits it in two or three: here one launch makes x
A^T and writes it to both places that want it. Dropout is drawn where x is read, so no copy of x is made, and x may
lie in the order of columns that the matmul beside it wants (`unpack_kernel.py`). Sums are float32, in one order.
Shapes: T tokens (a multiple of 64), K inputs and N outputs of the linear, R the adapter's columns beside the
weight's, BR the rank rounded up to a power of two."""

# ruff: noqa: E741, N803
# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-any-return"

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl

from florilegium.fast.training.dropout import drawn, dropout_keep, dropped
from florilegium.fast.unpack_kernel import NATURAL_ORDER, natural_column, to_mma_order
from florilegium.reference import Dropout

BLOCK_M = 32  # tokens a program
MAX_TOKENS = 2**21  # of a step
MAX_RANK = 256  # a higher rank is not bound by its launches, and cuBLAS has it


# not specialized: each linear has a stream of its own, and would be compiled again for 1 and for multiples of 16
@triton.jit(do_not_specialize=["stream", "programs"])
def down_projection_kernel(
    x, a, out, beside, parts, arrived, seed, number, stream, drop_limit, x_stride, stride, a_row, a_column, K, rank, R, programs,
    DROPOUT: tl.constexpr, ORDER: tl.constexpr,
    SPLITS: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr, BR: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Reference: out = F.dropout(x) @ a.T; beside[:, :rank] = out; beside[:, rank:R] = 0

    x [T, K], its columns in ORDER, and beside [T, R] have rows `x_stride` and `stride` apart, out [T, rank] has none; a
    [rank, K] by the strides `a_row` and `a_column`, one of which is 1, so B comes transposed without a copy. `programs`
    share a tile of BM rows: each sums its part of K and leaves it in `parts` [T / BM, programs, BM, BR] float32, and the
    last that has `arrived` (int32 [T / BM], 0 before and after) adds them up."""
    tile, part = tl.program_id(0), tl.program_id(1)
    m = tile * BM + tl.arange(0, BM)  # no mask: T is a multiple of BM (an assert of the launcher)
    r = tl.arange(0, BR)
    each = K // (programs * SPLITS)  # of K, for a split
    first = (part * (K // programs) + tl.arange(0, SPLITS) * each)[:, None, None]
    if DROPOUT:
        number_m = tl.load(number + m)[None, :, None] * (K // 8)
    # One batched dot [SPLITS, BM, BR]: Triton gives each of the splits to a warp of its own.
    acc = tl.zeros([SPLITS, BM, BR], tl.float32)
    for k in tl.range(0, each, BK, num_stages=STAGES):
        # Without the hint the compiler, which does not know `programs`, would load two bytes at a time.
        begin = tl.multiple_of(first + k, (16, 16, 16))
        rows = tl.load(x + m[None, :, None].to(tl.int64) * x_stride + begin + tl.arange(0, BK)[None, None, :])
        if DROPOUT:
            counter = number_m + begin // 8 + tl.arange(0, BK // 8)[None, None, :]
            # draws are by columns, x lies by places
            keep = tl.reshape(dropout_keep(seed, stream, counter, drop_limit), (SPLITS * BM, BK))
            keep = tl.reshape(to_mma_order(keep, ORDER, SPLITS * BM, BK), (SPLITS, BM, BK))
            rows = dropped(rows, keep, drop_limit).to(x.dtype.element_ty)
        # A in its own order: it is small, and the L2 cache minds no order
        column = natural_column(begin + tl.arange(0, BK)[None, :, None], ORDER)
        weight = tl.load(a + r[None, None, :] * a_row + column * a_column, mask=r[None, None, :] < rank, other=0.0)
        acc = tl.dot(rows, weight, acc)
    mine = tl.arange(0, BM)[:, None] * BR + r[None, :]
    here = parts + tile * programs * (BM * BR)
    tl.store(here + part * (BM * BR) + mine, tl.sum(acc, 0))
    # all threads have written before the one that counts says so
    tl.debug_barrier()
    if tl.atomic_add(arrived + tile, 1, sem="acq_rel") == programs - 1:
        # in one order, whoever was last: the same bits every time; by the L2 cache, where the others' parts are
        total = tl.load(here + mine, cache_modifier=".cg")
        for i in range(1, programs):
            total += tl.load(here + i * (BM * BR) + mine, cache_modifier=".cg")
        y = total.to(out.dtype.element_ty)
        tl.store(out + m[:, None] * rank + r[None, :], y, mask=r[None, :] < rank)
        # Columns from the rank to R are 0 here because `weight` was masked: the wide matmul reads all R.
        tl.store(beside + m[:, None].to(tl.int64) * stride + r[None, :], y, mask=r[None, :] < R)
        tl.atomic_xchg(arrived + tile, 0)  # for the next launch


@triton.jit
def write_lora_b_kernel(
    B, scale, factor, to, stride, N, rank, R: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK: tl.constexpr
):
    """Reference: to[:, :rank] = B * factor / scale[:, None]; to[:, rank:R] = 0      B [N, rank]; `to` [N, R] of rows
    `stride` apart; scale [N]."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    column = tl.arange(0, BLOCK_R)
    inside = (row[:, None] < N) & (column[None, :] < R)
    b = tl.load(B + row[:, None] * rank + column[None, :], mask=inside & (column[None, :] < rank), other=0.0).to(
        tl.float32
    )
    s = tl.load(scale + row, mask=row < N, other=1.0)  # 1: rows beyond the last divide by it
    tl.store(
        to + row[:, None].to(tl.int64) * stride + column[None, :],
        (b * (factor / s[:, None])).to(to.dtype.element_ty),
        mask=inside,
    )


def padded_rank(rank: int) -> int:
    """Columns of the matrix unit's tile: at least 16."""
    return max(16, triton.next_power_of_2(rank))


def down_projection_tile(K: int, rank: int) -> dict[str, int]:
    """The tile of `down_projection_kernel`: parts of K that a program's warps sum side by side, and how much of each at a
    time; less where the rank is higher, for shared memory."""
    BR = padded_rank(rank)
    # 64 of K where it can be: that is where columns change places (`to_mma_order`); never one split, on which Triton 3.8
    # fails
    BK, SPLITS = next((b, s) for b in (64, 32, 16) for s in (4, 2) if s * BR <= max(128, 2 * BR) and K % (s * b) == 0)
    return {"SPLITS": SPLITS, "BM": BLOCK_M, "BK": BK, "BR": BR, "STAGES": 3 if BR <= 64 else 256 // BR}


def down_projection_programs(T: int, K: int, tile: dict[str, int]) -> int:
    """How many share a tile of rows: enough for two on each of an H100's multiprocessors."""
    programs = 1
    while programs < 8 and T // BLOCK_M * programs < 264 and K % (2 * programs * tile["SPLITS"] * tile["BK"]) == 0:
        programs *= 2
    return programs


@functools.cache
def _arrived(device: torch.device) -> torch.Tensor:
    """Counters that are 0 between launches. One stream at a time."""
    # One for all lengths, made by the warm-up: what is made while a step is recorded is not there before its replay.
    return torch.zeros(MAX_TOKENS // BLOCK_M, dtype=torch.int32, device=device)


def _launch(
    x: torch.Tensor, a: torch.Tensor, out: torch.Tensor, beside: torch.Tensor, sizes: tuple[int, int, int, int], R: int,
    order: int, dropout: Dropout | None,
) -> None:  # fmt: skip
    """`sizes`: the strides of `a`, K and the rank."""
    T, (_, _, K, rank) = len(x), sizes
    assert T % BLOCK_M == 0 and T <= MAX_TOKENS, "a tail of tokens would be left out in silence"
    tile = down_projection_tile(K, rank)
    programs = down_projection_programs(T, K, tile)
    # float32: a sum is rounded once, when it is whole
    parts = x.new_empty(T * programs * tile["BR"], dtype=torch.float32)
    down_projection_kernel[(T // BLOCK_M, programs)](
        x, a, out, beside, parts, _arrived(x.device), *drawn(dropout, out),
        x.stride(0), beside.stride(0), *sizes, R, programs, DROPOUT=dropout is not None, ORDER=order, **tile, num_warps=4,
    )  # fmt: skip


def down_projection(
    x_TK: torch.Tensor, a_RK: torch.Tensor, beside_TR: torch.Tensor, *, order: int = NATURAL_ORDER, dropout: Dropout | None = None
) -> torch.Tensor:  # fmt: skip
    """x A^T [T, rank], of x with dropout, whose columns lie in `order`; `beside_TR` gets it too, and zeros beyond the
    rank. It and x may be views whose rows lie further apart."""
    (T, K), rank = x_TK.shape, len(a_RK)
    assert x_TK.stride(1) == beside_TR.stride(1) == 1 and a_RK.is_contiguous() and rank <= beside_TR.shape[1]
    if rank > MAX_RANK:
        assert order == NATURAL_ORDER and dropout is None, "cuBLAS reads columns as they are, and all of them"
        beside_TR[:, :rank], beside_TR[:, rank:] = torch.mm(x_TK, a_RK.T), 0
        return beside_TR[:, :rank].contiguous()
    out = x_TK.new_empty(T, rank)
    _launch(x_TK, a_RK, out, beside_TR, (K, 1, K, rank), beside_TR.shape[1], order, dropout)
    return out


def down_projection_grad(y_TN: torch.Tensor, b_NR: torch.Tensor, rank: int) -> torch.Tensor:
    """y B [T, rank], of B's R columns the first."""
    (T, N), R = y_TN.shape, b_NR.shape[1]
    assert y_TN.stride(1) == 1 and b_NR.is_contiguous() and len(b_NR) == N
    if rank > MAX_RANK:
        return torch.mm(y_TN, b_NR)[:, :rank]
    out = y_TN.new_empty(T, rank)
    # B [N, R] read as A would be, its columns for rows; R = 0: nothing is written beside
    _launch(y_TN, b_NR, out, out, (1, R, N, rank), 0, NATURAL_ORDER, None)
    return out


def write_lora_b(B_NR: torch.Tensor, scale_N: torch.Tensor, factor: float, to: torch.Tensor) -> None:
    """Writes the adapter's B * factor / scale to a view [N, R], R being the rank or more: the int8 scale, which is
    applied to the whole raw product, then gives B * factor back."""
    N, rank = B_NR.shape
    R = to.shape[1]
    assert B_NR.is_contiguous() and to.stride(1) == 1 and len(to) == N and rank <= R
    write_lora_b_kernel[(triton.cdiv(N, 128),)](
        B_NR, scale_N, factor, to, to.stride(0), N, rank, R=R, BLOCK_R=triton.next_power_of_2(R), BLOCK=128
    )
