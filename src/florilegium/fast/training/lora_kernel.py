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

import torch
import triton
import triton.language as tl

from florilegium.fast.training.dropout import Dropout, drawn, dropout_keep
from florilegium.fast.unpack_kernel import NATURAL_ORDER, mma_column_order

SPLITS = 4  # parts of K that a program sums at the same time: with 16 columns there is work for one warp otherwise
BLOCK_M = 16  # tokens a program: the least that the matrix unit takes, so that a short batch fills the card
MAX_RANK = 256  # a higher rank is not bound by its launches, and cuBLAS has it


@triton.jit(do_not_specialize=["stream"])
def down_projection_kernel(
    x, a, out, beside, seed, stream, dropout, x_stride, stride, a_row, a_column, K, rank, R,
    DROPOUT: tl.constexpr, ORDER: tl.constexpr,
    SPLITS: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr, BR: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Reference: out = F.dropout(x) @ a.T; beside[:, :rank] = out; beside[:, rank:R] = 0

    x [T, K], its columns in ORDER, and beside [T, R] have rows `x_stride` and `stride` apart, out [T, rank] has none; a
    [rank, K] by the strides `a_row` and `a_column`, one of which is 1, so B comes transposed without a copy."""
    m = tl.program_id(0) * BM + tl.arange(0, BM)  # no mask: T is a multiple of BM (an assert of the launcher)
    r = tl.arange(0, BR)
    first = (tl.arange(0, SPLITS) * (K // SPLITS))[:, None, None]
    part = tl.arange(0, BK)
    # One batched dot [SPLITS, BM, BR]: Triton gives each of the parts to a warp of its own.
    acc = tl.zeros([SPLITS, BM, BR], tl.float32)
    for k in tl.range(0, K // SPLITS, BK, num_stages=STAGES):
        column = mma_column_order(first + k + part[None, None, :], ORDER)
        rows = tl.load(x + m[None, :, None].to(tl.int64) * x_stride + column)
        if DROPOUT:
            counter = m[None, :, None] * (K // 4) + (first + k) // 4 + tl.arange(0, BK // 4)[None, None, :]
            keep = tl.reshape(dropout_keep(seed, stream, counter, dropout), (SPLITS, BM, BK))
            rows = tl.where(keep, rows.to(tl.float32) / (1 - dropout), 0.0).to(x.dtype.element_ty)
        weight = tl.load(
            a + r[None, None, :] * a_row + (first + k + part[None, :, None]) * a_column,
            mask=r[None, None, :] < rank,
            other=0.0,
        )
        acc = tl.dot(rows, weight, acc)
    # the parts are added in one order, by one program: the same bits every time
    y = tl.sum(acc, 0).to(out.dtype.element_ty)
    tl.store(out + m[:, None] * rank + r[None, :], y, mask=r[None, :] < rank)
    # Columns from the rank to R are 0 here because `weight` was masked: the wide matmul reads all R.
    tl.store(beside + m[:, None].to(tl.int64) * stride + r[None, :], y, mask=r[None, :] < R)


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
    """The tile of `down_projection_kernel`: less of K at a time where the rank is higher, for shared memory."""
    BR = padded_rank(rank)
    BK = next(k for k in (128, 64, 32, 16) if K % (SPLITS * k) == 0 and k * BR <= max(2048, 16 * BR))
    return {"SPLITS": SPLITS, "BM": BLOCK_M, "BK": BK, "BR": BR, "STAGES": 3 if BR <= 64 else 2}


def down_projection(
    x_TK: torch.Tensor, a_RK: torch.Tensor, beside_TR: torch.Tensor, *, order: int = NATURAL_ORDER, dropout: Dropout | None = None
) -> torch.Tensor:  # fmt: skip
    """x A^T [T, rank], of x with dropout, whose columns lie in `order`; `beside_TR` gets it too, and zeros beyond the
    rank. It and x may be views whose rows lie further apart."""
    (T, K), rank = x_TK.shape, len(a_RK)
    assert T % BLOCK_M == 0, "a tail of tokens would be left out in silence"
    assert x_TK.stride(1) == beside_TR.stride(1) == 1 and a_RK.is_contiguous() and rank <= beside_TR.shape[1]
    if rank > MAX_RANK:
        assert order == NATURAL_ORDER and dropout is None, "cuBLAS reads columns as they are, and all of them"
        beside_TR[:, :rank], beside_TR[:, rank:] = torch.mm(x_TK, a_RK.T), 0
        return beside_TR[:, :rank].contiguous()
    out = x_TK.new_empty(T, rank)
    down_projection_kernel[(T // BLOCK_M,)](
        x_TK, a_RK, out, beside_TR, *drawn(dropout, out), x_TK.stride(0), beside_TR.stride(0), K, 1, K, rank, beside_TR.shape[1],
        DROPOUT=dropout is not None, ORDER=order, **down_projection_tile(K, rank), num_warps=4,
    )  # fmt: skip
    return out


def down_projection_grad(y_TN: torch.Tensor, b_NR: torch.Tensor, rank: int) -> torch.Tensor:
    """y B [T, rank], of B's R columns the first."""
    (T, N), R = y_TN.shape, b_NR.shape[1]
    assert T % BLOCK_M == 0 and y_TN.is_contiguous() and b_NR.is_contiguous() and len(b_NR) == N
    if rank > MAX_RANK:
        return torch.mm(y_TN, b_NR)[:, :rank]
    out = y_TN.new_empty(T, rank)
    # B [N, R] read as A would be, its columns for rows; R = 0: nothing is written beside
    down_projection_kernel[(T // BLOCK_M,)](
        y_TN, b_NR, out, out, *drawn(None, out), N, rank, 1, R, N, rank, 0,
        DROPOUT=False, ORDER=NATURAL_ORDER, **down_projection_tile(N, rank), num_warps=4,
    )  # fmt: skip
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
