"""The Triton kernels of LoRA's low-rank matmuls in training (`block_passes.py`): the down-projection x A^T, the
gradients of A and B, and B written where the quantised matmul reads it.

A product with 16 columns is bound by its launches, and cuBLAS splits it in two or three: here one launch makes x A^T
and writes it to both places that want it, one its gradient where no wide product has it beside, one the gradients of A
and B, scale and all. Sums are float32, in one order. Shapes: T tokens (a multiple of 64), W width, N = 3W, R the
adapter's columns beside the weight's, BR the rank rounded up to a power of two."""

# ruff: noqa: E741, N803
# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-any-return"

from __future__ import annotations

import torch
import triton
import triton.language as tl

SPLITS = 4  # parts of W that a program sums at the same time: with 16 columns there is work for one warp otherwise
BLOCK_M = 16  # tokens a program: the least that the matrix unit takes, so that a short batch fills the card
MAX_RANK = 256  # a higher rank is not bound by its launches, and cuBLAS has it


@triton.jit
def down_projection_kernel(
    x, a, out, beside, x_stride, stride, a_row, a_column, W, rank, R,
    SPLITS: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr, BR: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Reference: out = x @ a.T; beside[:, :rank] = out; beside[:, rank:R] = 0

    x [T, W] and beside [T, R] have rows `x_stride` and `stride` apart, out [T, rank] has none; a [rank, W] by the
    strides `a_row` and `a_column`, one of which is 1, so B comes transposed without a copy."""
    m = tl.program_id(0) * BM + tl.arange(0, BM)  # no mask: T is a multiple of BM (an assert of the launcher)
    r = tl.arange(0, BR)
    first = (tl.arange(0, SPLITS) * (W // SPLITS))[:, None, None]
    part = tl.arange(0, BK)
    # One batched dot [SPLITS, BM, BR]: Triton gives each of the parts to a warp of its own.
    acc = tl.zeros([SPLITS, BM, BR], tl.float32)
    for k in tl.range(0, W // SPLITS, BK, num_stages=STAGES):
        rows = tl.load(x + m[None, :, None].to(tl.int64) * x_stride + first + k + part[None, None, :])
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
def lora_grad_kernel(
    lora_input, down_grad, grad_a, qkv_grad, down, b_rescale, grad_b, down_grad_stride, T, W, N, rank,
    BT: tl.constexpr, BC: tl.constexpr, BR: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Reference: grad_a = down_grad.T @ lora_input; grad_b = qkv_grad.T @ down * b_rescale[:, None]

    lora_input [T, W], qkv_grad [T, N], down [T, rank], down_grad [T, rank] of rows `down_grad_stride` apart; grad_a
    [rank, W] and grad_b [N, rank] float32. BC columns of W or of N a program."""
    programs_of_a = tl.cdiv(W, BC)
    number = tl.program_id(0)
    # Both gradients in one launch: neither alone fills the card.
    is_a = number < programs_of_a
    width = tl.where(is_a, W, N)
    stride = tl.where(is_a, down_grad_stride, rank)
    # A program's columns are of W (for A) or of N (for B): one code, other pointers and strides.
    c = tl.where(is_a, number, number - programs_of_a) * BC + tl.arange(0, BC)
    inside = c < width
    r = tl.arange(0, BR)
    in_rank = r < rank
    tall = lora_input if is_a else qkv_grad
    few = down_grad if is_a else down
    acc = tl.zeros([BC, BR], tl.float32)
    # The sum over tokens stays in one program: split, it would take atomics, and bits would differ from run to run.
    for t in tl.range(0, T, BT, num_stages=STAGES):
        row = (t + tl.arange(0, BT)).to(tl.int64)
        columns = tl.load(tall + row[:, None] * width + c[None, :], mask=inside[None, :], other=0.0)
        narrow = tl.load(few + row[:, None] * stride + r[None, :], mask=in_rank[None, :], other=0.0)
        acc = tl.dot(tl.trans(columns), narrow, acc)
    real = inside[:, None] & in_rank[None, :]
    if is_a:
        tl.store(grad_a + r[None, :] * W + c[:, None], acc, mask=real)
    else:
        # qkv_grad is that of the raw product, which B entered divided by the int8 scale (`write_lora_b`)
        by = tl.load(b_rescale + c, mask=inside, other=0.0)
        tl.store(grad_b + c[:, None] * rank + r[None, :], acc * by[:, None], mask=real)


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


def _padded_rank(rank: int) -> int:
    """Columns of the matrix unit's tile: at least 16."""
    return max(16, triton.next_power_of_2(rank))


def down_projection_tile(W: int, rank: int) -> dict[str, int]:
    """The tile of `down_projection_kernel`: less of W at a time where the rank is higher, for shared memory."""
    BR = _padded_rank(rank)
    BK = next(k for k in (128, 64, 32, 16) if W % (SPLITS * k) == 0 and k * BR <= max(2048, 16 * BR))
    return {"SPLITS": SPLITS, "BM": BLOCK_M, "BK": BK, "BR": BR, "STAGES": 3 if BR <= 64 else 2}


def lora_grad_tile(rank: int) -> dict[str, int]:
    """The tile of `lora_grad_kernel`."""
    BR = _padded_rank(rank)
    return {"BT": 64, "BC": 64, "BR": BR, "STAGES": 4 if BR <= 64 else 2}


def down_projection(x_TW: torch.Tensor, a_RW: torch.Tensor, beside_TR: torch.Tensor) -> torch.Tensor:
    """x A^T [T, rank]; `beside_TR` gets it too, and zeros beyond the rank. It and x may be views whose rows lie further
    apart."""
    (T, W), rank = x_TW.shape, len(a_RW)
    assert T % BLOCK_M == 0, "a tail of tokens would be left out in silence"
    assert x_TW.stride(1) == beside_TR.stride(1) == 1 and a_RW.is_contiguous() and rank <= beside_TR.shape[1]
    if rank > MAX_RANK:
        beside_TR[:, :rank], beside_TR[:, rank:] = torch.mm(x_TW, a_RW.T), 0
        return beside_TR[:, :rank].contiguous()
    out = x_TW.new_empty(T, rank)
    down_projection_kernel[(T // BLOCK_M,)](
        x_TW, a_RW, out, beside_TR, x_TW.stride(0), beside_TR.stride(0), W, 1, W, rank, beside_TR.shape[1],
        **down_projection_tile(W, rank), num_warps=4,
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
        y_TN, b_NR, out, out, N, rank, 1, R, N, rank, 0, **down_projection_tile(N, rank), num_warps=4
    )
    return out


def lora_gradients(
    lora_input_TW: torch.Tensor,
    down_grad_TR: torch.Tensor,
    qkv_grad_TN: torch.Tensor,
    down_TR: torch.Tensor,
    b_rescale_N: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of A [rank, W] and B [N, rank], float32: they are not rounded on their way to float32 parameters. `down_grad_TR`
    may be a view."""
    (T, W), N, rank = lora_input_TW.shape, qkv_grad_TN.shape[1], down_TR.shape[1]
    tile = lora_grad_tile(rank)
    assert T % tile["BT"] == 0, "rows beyond the last would be read"
    assert lora_input_TW.is_contiguous() and qkv_grad_TN.is_contiguous() and down_TR.is_contiguous()
    assert down_grad_TR.stride(1) == 1
    if rank > MAX_RANK:
        return _float32_mm(down_grad_TR.T, lora_input_TW), _float32_mm(qkv_grad_TN.T, down_TR).mul_(
            b_rescale_N[:, None]
        )
    grad_a, grad_b = (lora_input_TW.new_empty(shape, dtype=torch.float32) for shape in ((rank, W), (N, rank)))
    lora_grad_kernel[(triton.cdiv(W, tile["BC"]) + triton.cdiv(N, tile["BC"]),)](
        lora_input_TW, down_grad_TR, grad_a, qkv_grad_TN, down_TR, b_rescale_N, grad_b, down_grad_TR.stride(0), T, W, N, rank,
        **tile, num_warps=4,
    )  # fmt: skip
    return grad_a, grad_b


def _float32_mm(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """A product of bfloat16 whose float32 sums are not rounded; the CPU has no such `out_dtype`."""
    return torch.mm(a, b, out_dtype=torch.float32) if a.is_cuda else a.float() @ b.float()


def write_lora_b(B_NR: torch.Tensor, scale_N: torch.Tensor, factor: float, to: torch.Tensor) -> None:
    """Writes the adapter's B * factor / scale to a view [N, R], R being the rank or more: the int8 scale, which is
    applied to the whole raw product, then gives B * factor back."""
    N, rank = B_NR.shape
    R = to.shape[1]
    assert B_NR.is_contiguous() and to.stride(1) == 1 and len(to) == N and rank <= R
    write_lora_b_kernel[(triton.cdiv(N, 128),)](
        B_NR, scale_N, factor, to, to.stride(0), N, rank, R=R, BLOCK_R=triton.next_power_of_2(R), BLOCK=128
    )
