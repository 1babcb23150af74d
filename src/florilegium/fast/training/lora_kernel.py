"""The Triton kernels of the adapter's thin products in training (`block_passes.py`): x A^T, and the gradients of A and
B.

A product with 16 columns is bound by its launches, and cuBLAS splits it in two or three: here one launch makes x A^T
and writes it to both places that want it, one its gradient where no wide product has it beside, one the gradients of A
and B, scale and all. Sums are float32, in one order. Shapes: T tokens (a multiple of 64), W width, N = 3W, R the
adapter's columns beside the codes, BR the rank rounded up to a power of two."""

# ruff: noqa: E741, N803
# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-any-return"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

SHARES = 4  # parts of W that warps of one program sum at the same time
WIDEST = 256  # a rank beyond is no thin product, and cuBLAS has it


@triton.jit
def thin_rows(
    x, a, thin, beside, x_stride, stride, a_row, a_column, W, rank, R,
    SHARES: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr, BR: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """thin = x A^T, and the same in the R columns `beside`, which are zero beyond the rank. One of A's two strides is
    1."""
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    r = tl.arange(0, BR)
    share = (tl.arange(0, SHARES) * (W // SHARES))[:, None, None]
    part = tl.arange(0, BK)
    acc = tl.zeros([SHARES, BM, BR], tl.float32)
    for k in tl.range(0, W // SHARES, BK, num_stages=STAGES):
        rows = tl.load(x + m[None, :, None].to(tl.int64) * x_stride + share + k + part[None, None, :])
        weight = tl.load(
            a + r[None, None, :] * a_row + (share + k + part[None, :, None]) * a_column,
            mask=r[None, None, :] < rank,
            other=0.0,
        )
        acc = tl.dot(rows, weight, acc)
    y = tl.sum(acc, 0).to(thin.dtype.element_ty)
    tl.store(thin + m[:, None] * rank + r[None, :], y, mask=r[None, :] < rank)
    tl.store(beside + m[:, None].to(tl.int64) * stride + r[None, :], y, mask=r[None, :] < R)


@triton.jit
def grad_columns(
    dropped, thin_grad, grad_a, qkv_grad, thin, unfolding, grad_b, thin_grad_stride, T, W, N, rank,
    BT: tl.constexpr, BC: tl.constexpr, BR: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """grad_a [rank, W] = thin_grad^T dropped; grad_b [N, rank] = qkv_grad^T thin * unfolding. BC columns of W or of N a
    program."""
    of_a = tl.cdiv(W, BC)
    number = tl.program_id(0)
    first = number < of_a
    wide = tl.where(first, W, N)
    stride = tl.where(first, thin_grad_stride, rank)
    c = tl.where(first, number, number - of_a) * BC + tl.arange(0, BC)
    inside = c < wide
    r = tl.arange(0, BR)
    there = r < rank
    many = dropped if first else qkv_grad
    few = thin_grad if first else thin
    acc = tl.zeros([BC, BR], tl.float32)
    for t in tl.range(0, T, BT, num_stages=STAGES):
        row = (t + tl.arange(0, BT)).to(tl.int64)
        columns = tl.load(many + row[:, None] * wide + c[None, :], mask=inside[None, :], other=0.0)
        narrow = tl.load(few + row[:, None] * stride + r[None, :], mask=there[None, :], other=0.0)
        acc = tl.dot(tl.trans(columns), narrow, acc)
    real = inside[:, None] & there[None, :]
    if first:
        tl.store(grad_a + r[None, :] * W + c[:, None], acc, mask=real)
    else:
        by = tl.load(unfolding + c, mask=inside, other=0.0)
        tl.store(grad_b + c[:, None] * rank + r[None, :], acc * by[:, None], mask=real)


def _columns(rank: int) -> int:
    return max(16, triton.next_power_of_2(rank))


def thin_tile(W: int, rank: int) -> dict[str, int]:
    """The tile of `thin_rows`: less of W at a time where the rank is wider, for shared memory."""
    BR = _columns(rank)
    BK = next(k for k in (128, 64, 32, 16) if W % (SHARES * k) == 0 and k * BR <= max(2048, 16 * BR))
    return {"SHARES": SHARES, "BM": 16, "BK": BK, "BR": BR, "STAGES": 3 if BR <= 64 else 2}


def grad_tile(rank: int) -> dict[str, int]:
    """The tile of `grad_columns`."""
    BR = _columns(rank)
    return {"BT": 64, "BC": 64, "BR": BR, "STAGES": 4 if BR <= 64 else 2}


def thin(x_TW: torch.Tensor, a_RW: torch.Tensor, beside_TR: torch.Tensor) -> torch.Tensor:
    """x A^T [T, rank]; `beside_TR` gets it too, and zeros beyond the rank. It and x may be views whose rows lie further
    apart."""
    (T, W), rank = x_TW.shape, len(a_RW)
    if rank > WIDEST:
        beside_TR[:, :rank], beside_TR[:, rank:] = torch.mm(x_TW, a_RW.T), 0
        return beside_TR[:, :rank].contiguous()
    out = x_TW.new_empty(T, rank)
    kernel: Any = thin_rows
    kernel[(T // 16,)](
        x_TW, a_RW, out, beside_TR, x_TW.stride(0), beside_TR.stride(0), W, 1, W, rank, beside_TR.shape[1], **thin_tile(W, rank),
        num_warps=4,
    )  # fmt: skip
    return out


def thin_grad(y_TN: torch.Tensor, b_NR: torch.Tensor, rank: int) -> torch.Tensor:
    """y B [T, rank], of B's R columns the first."""
    (T, N), R = y_TN.shape, b_NR.shape[1]
    if rank > WIDEST:
        return torch.mm(y_TN, b_NR)[:, :rank]
    out = y_TN.new_empty(T, rank)
    kernel: Any = thin_rows
    kernel[(T // 16,)](y_TN, b_NR, out, out, N, rank, 1, R, N, rank, 0, **thin_tile(N, rank), num_warps=4)
    return out


def gradients(
    dropped_TW: torch.Tensor,
    thin_grad_TR: torch.Tensor,
    qkv_grad_TN: torch.Tensor,
    thin_TR: torch.Tensor,
    unfolding_N: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of A [rank, W] and B [N, rank], float32: they are not rounded on their way to float32 parameters. `thin_grad_TR`
    may be a view."""
    (T, W), N, rank = dropped_TW.shape, qkv_grad_TN.shape[1], thin_TR.shape[1]
    if rank > WIDEST:
        return _product(thin_grad_TR.T, dropped_TW), _product(qkv_grad_TN.T, thin_TR).mul_(unfolding_N[:, None])
    grad_a, grad_b = (dropped_TW.new_empty(shape, dtype=torch.float32) for shape in ((rank, W), (N, rank)))
    tile = grad_tile(rank)
    kernel: Any = grad_columns
    kernel[(triton.cdiv(W, tile["BC"]) + triton.cdiv(N, tile["BC"]),)](
        dropped_TW, thin_grad_TR, grad_a, qkv_grad_TN, thin_TR, unfolding_N, grad_b, thin_grad_TR.stride(0), T, W, N, rank,
        **tile, num_warps=4,
    )  # fmt: skip
    return grad_a, grad_b


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.mm(a, b, out_dtype=torch.float32) if a.is_cuda else a.float() @ b.float()
