"""The Triton kernels of LoRA's gradients in training (`backward_pass.py`): of A and B in one launch, and of a linear's
input where no norm's backward pass takes that in.

A linear's input is read as it was kept: in the order of columns that the matmul beside it wanted (`unpack_kernel.py`),
and without dropout, which is drawn here again. Sums are float32, in one order. Shapes: T tokens (a multiple of 64), K
inputs and N outputs of the linear, BR the rank rounded up to a power of two."""

# ruff: noqa: E741, N803
# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-any-return"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from florilegium.fast.training.dropout import drawn, dropout_keep, dropped
from florilegium.fast.training.lora_kernel import MAX_RANK, padded_rank
from florilegium.fast.unpack_kernel import NATURAL_ORDER, natural_column, to_mma_order
from florilegium.reference import Dropout


@triton.jit
def _sum_over_tokens(
    tall, few, tall_stride, few_stride, place, width, rank, T, seed, number, stream, drop_limit,
    DROPOUT: tl.constexpr, ORDER: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr, BR: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Reference: F.dropout(tall)[:, place].T @ few      [BC, BR] float32; tall [T, width], few [T, rank].

    `place` are BC places from a multiple of BC on; in ORDER they hold the columns `natural_column` of them."""
    inside = place < width
    r = tl.arange(0, BR)
    acc = tl.zeros([BC, BR], tl.float32)
    # The sum over tokens stays in one program: split, it would take atomics, and bits would differ from run to run.
    for t in tl.range(0, T, BT, num_stages=STAGES):
        row = (t + tl.arange(0, BT)).to(tl.int64)
        x = tl.load(tall + row[:, None] * tall_stride + place[None, :], mask=inside[None, :], other=0.0)
        if DROPOUT:
            # BC is 64: its places hold the same 64 columns, so the draws are those columns', put where they lie
            counter = (
                tl.load(number + row)[:, None] * (width // 8) + tl.min(place, 0) // 8 + tl.arange(0, BC // 8)[None, :]
            )
            keep = to_mma_order(tl.reshape(dropout_keep(seed, stream, counter, drop_limit), (BT, BC)), ORDER, BT, BC)
            x = dropped(x, keep, drop_limit).to(tall.dtype.element_ty)
        y = tl.load(few + row[:, None] * few_stride + r[None, :], mask=r[None, :] < rank, other=0.0)
        acc = tl.dot(tl.trans(x), y, acc)
    return acc


@triton.jit(do_not_specialize=["stream"])
def lora_grad_kernel(
    lora_input, down_grad, grad_a, out_grad, down, b_rescale, grad_b, seed, number, stream, drop_limit,
    input_stride, down_grad_stride, out_grad_stride, T, K, N, rank,
    DROPOUT: tl.constexpr, ORDER: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr, BR: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Reference: grad_a = down_grad.T @ F.dropout(lora_input); grad_b = out_grad.T @ down * b_rescale[:, None]

    lora_input [T, K], its columns in ORDER, out_grad [T, N] and down_grad [T, rank] have rows `input_stride`,
    `out_grad_stride` and `down_grad_stride` apart, down [T, rank] has none; grad_a [rank, K] and grad_b [N, rank]
    float32. BC columns of K or of N a program."""
    programs_of_a = tl.cdiv(K, BC)
    program = tl.program_id(0)
    r = tl.arange(0, BR)
    # Both gradients in one launch: neither alone fills the card.
    if program < programs_of_a:
        c = program * BC + tl.arange(0, BC)
        acc = _sum_over_tokens(
            lora_input, down_grad, input_stride, down_grad_stride, c, K, rank, T, seed, number, stream, drop_limit,
            DROPOUT, ORDER, BT, BC, BR, STAGES,
        )  # fmt: skip
        # back in their own order: once a launch, so scattered stores cost little
        tl.store(
            grad_a + r[None, :] * K + natural_column(c, ORDER)[:, None],
            acc,
            mask=(c < K)[:, None] & (r < rank)[None, :],
        )
    else:
        c = (program - programs_of_a) * BC + tl.arange(0, BC)
        acc = _sum_over_tokens(
            out_grad, down, out_grad_stride, rank, c, N, rank, T, seed, number, stream, drop_limit,
            False, 16, BT, BC, BR, STAGES,
        )  # fmt: skip  # 16: NATURAL_ORDER
        # out_grad is that of the raw product, which B entered divided by the int8 scale (`write_lora_b`)
        by = tl.load(b_rescale + c, mask=c < N, other=0.0)
        tl.store(
            grad_b + c[:, None] * rank + r[None, :], acc * by[:, None], mask=(c < N)[:, None] & (r < rank)[None, :]
        )


@triton.jit(do_not_specialize=["stream"])
def lora_input_grad_kernel(
    grad, down_grad, a, slope, seed, number, stream, drop_limit, grad_stride, down_grad_stride, K, rank,
    DROPOUT: tl.constexpr, HAS_SLOPE: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr, BR: tl.constexpr,
):  # fmt: skip
    """Reference: grad += (dropout's gradient of down_grad @ a) * slope, in place

    grad [T, K] and down_grad [T, rank] have rows `grad_stride` and `down_grad_stride` apart; a [rank, K]; slope [T, K]
    where HAS_SLOPE, else 1."""
    t = tl.program_id(0) * BT + tl.arange(0, BT)  # no mask: T is a multiple of BT
    row = t.to(tl.int64)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    r = tl.arange(0, BR)
    inside = (c < K)[None, :]
    few = tl.load(down_grad + row[:, None] * down_grad_stride + r[None, :], mask=(r < rank)[None, :], other=0.0)
    weight = tl.load(a + r[:, None] * K + c[None, :], mask=(r < rank)[:, None] & inside, other=0.0)
    more = tl.dot(few, weight)  # float32 until it is added
    if DROPOUT:
        counter = (
            tl.load(number + t)[:, None] * (K // 8) + tl.program_id(1) * (BC // 8) + tl.arange(0, BC // 8)[None, :]
        )
        keep = tl.reshape(dropout_keep(seed, stream, counter, drop_limit), (BT, BC))
        more = dropped(more, keep, drop_limit)
    if HAS_SLOPE:
        more *= tl.load(slope + row[:, None] * K + c[None, :], mask=inside, other=0.0).to(tl.float32)
    here = grad + row[:, None] * grad_stride + c[None, :]
    tl.store(here, (tl.load(here, mask=inside, other=0.0).to(tl.float32) + more).to(grad.dtype.element_ty), mask=inside)


def lora_grad_tile(rank: int) -> dict[str, int]:
    """The tile of `lora_grad_kernel`."""
    BR = padded_rank(rank)
    return {"BT": 64, "BC": 64, "BR": BR, "STAGES": 4 if BR <= 64 else 2}


def lora_input_grad_tile(rank: int) -> dict[str, int]:
    """The tile of `lora_input_grad_kernel`."""
    BR = padded_rank(rank)
    return {"BT": 64, "BC": 128 if BR <= 64 else 64, "BR": BR}


def lora_gradients(
    lora_input_TK: torch.Tensor,
    down_grad_TR: torch.Tensor,
    out_grad_TN: torch.Tensor,
    down_TR: torch.Tensor,
    b_rescale_N: torch.Tensor,
    *,
    order: int = NATURAL_ORDER,
    dropout: Dropout | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of A [rank, K] and B [N, rank], float32: they are not rounded on their way to float32 parameters. The linear's
    input has its columns in `order`, and dropout is drawn of it here. All but `down_TR` may be views."""
    (T, K), N, rank = lora_input_TK.shape, out_grad_TN.shape[1], down_TR.shape[1]
    tile = lora_grad_tile(rank)
    assert T % tile["BT"] == 0, "rows beyond the last would be read"
    assert lora_input_TK.stride(1) == out_grad_TN.stride(1) == down_grad_TR.stride(1) == 1 and down_TR.is_contiguous()
    if rank > MAX_RANK:
        assert order == NATURAL_ORDER and dropout is None
        return _float32_mm(down_grad_TR.T, lora_input_TK), _float32_mm(out_grad_TN.T, down_TR).mul_(
            b_rescale_N[:, None]
        )
    grad_a, grad_b = (lora_input_TK.new_empty(shape, dtype=torch.float32) for shape in ((rank, K), (N, rank)))
    lora_grad_kernel[(triton.cdiv(K, tile["BC"]) + triton.cdiv(N, tile["BC"]),)](
        lora_input_TK, down_grad_TR, grad_a, out_grad_TN, down_TR, b_rescale_N, grad_b, *drawn(dropout, grad_a),
        lora_input_TK.stride(0), down_grad_TR.stride(0), out_grad_TN.stride(0), T, K, N, rank,
        DROPOUT=dropout is not None, ORDER=order, **tile, num_warps=4,
    )  # fmt: skip
    return grad_a, grad_b


def add_lora_input_grad(
    grad_TK: torch.Tensor,
    down_grad_TR: torch.Tensor,
    a_RK: torch.Tensor,
    slope_TK: torch.Tensor | None = None,
    dropout: Dropout | None = None,
) -> None:
    """Adds the adapter's part of its input's gradient in place, times the slope of what made that input. The first two
    may be views."""
    (T, K), rank = grad_TK.shape, len(a_RK)
    tile = lora_input_grad_tile(rank)
    assert T % tile["BT"] == 0 and rank <= MAX_RANK and a_RK.is_contiguous()
    assert grad_TK.stride(1) == down_grad_TR.stride(1) == 1 and (slope_TK is None or slope_TK.is_contiguous())
    lora_input_grad_kernel[(T // tile["BT"], triton.cdiv(K, tile["BC"]))](
        grad_TK, down_grad_TR, a_RK, grad_TK if slope_TK is None else slope_TK, *drawn(dropout, grad_TK),
        grad_TK.stride(0), down_grad_TR.stride(0), K, rank,
        DROPOUT=dropout is not None, HAS_SLOPE=slope_TK is not None, **tile, num_warps=4,
    )  # fmt: skip


def _float32_mm(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """A product of bfloat16 whose float32 sums are not rounded; the CPU has no such `out_dtype`."""
    return torch.mm(a, b, out_dtype=torch.float32) if a.is_cuda else a.float() @ b.float()
