"""The Triton kernels of a BLOOM block's residual stream (`block_stack.py`): residual and LayerNorm, and their gradient.

Each reads the raw product of a quantised linear and applies what is left of that linear on the way: raw * scale + bias.
So scales, biases and residual additions cost no pass over memory of their own.

The residual stream in flight is what a block saves of it anyway, in bfloat16, and 8 bits of what that rounding left, in
a buffer that all blocks share. The norm reads the saved form, forward and backward alike. The stream's gradient is
written once, times the scale of the linear that reads it next, and divided by that where it goes on. Dropout (on the
adapter's input) is a function of a seed, the linear, the token's number in its step and the column, recomputed in the backward
pass. Statistics are float32. One program a row. Shapes: T tokens, W width, R columns of the adapter."""

# ruff: noqa: E741, N803
# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-any-return"

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from florilegium.fast.kernel_math import normalize
from florilegium.fast.training.dropout import drawn, dropout_keep, dropped
from florilegium.fast.unpack_kernel import NATURAL_ORDER, to_mma_order
from florilegium.reference import Dropout


@triton.jit
def _row_keep(seed, number, stream, row, W, drop_limit, BLOCK: tl.constexpr):
    """Which numbers of a row dropout leaves, [BLOCK]."""
    counter = tl.load(number + row) * (W // 8) + tl.arange(0, BLOCK // 8)
    return tl.reshape(dropout_keep(seed, stream, counter, drop_limit), (BLOCK,))


@triton.jit
def error_unit(rounded):
    """What `error` counts in: a number's last place in bfloat16, divided by 256.

    Reference: torch.ldexp(torch.tensor(1.0), torch.frexp(rounded).exponent - 16)"""
    # Only the exponent's bits are kept: that is the power of two below the number.
    power = (rounded.to(tl.float32).to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)
    # 2^-7 is bfloat16's last place, 2^-8 more are the int8. The floor keeps a division by the unit of 0 finite.
    return tl.maximum(power * 2.0**-15, 1e-35)


@triton.jit(do_not_specialize=["stream"])
def residual_norm_kernel(
    residual, error, raw, scale, bias, saved, gamma, beta, normed, lora_input, normed_stride, W, eps, seed, number, stream, drop_limit,
    HAS_UPDATE: tl.constexpr, HAS_ERROR: tl.constexpr, SAVE: tl.constexpr, LORA_INPUT: tl.constexpr, DROPOUT: tl.constexpr,
    ORDER: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Reference: saved = residual + raw * scale + bias; normed = F.layer_norm(saved, (W,), gamma, beta, eps);
    lora_input = F.dropout(normed, dropout)      residual, raw, saved, lora_input [T, W]; normed [T, W] of wider rows.

    SAVE: saved + error = residual + error (HAS_ERROR) + raw * scale + bias (HAS_UPDATE); else saved is residual. The
    columns of `normed` are in ORDER, those of `lora_input` (LORA_INPUT: it is wanted) in their own."""
    row = tl.program_id(0).to(tl.int64)  # 64 bits: T * W may pass 2^31
    column = tl.arange(0, BLOCK)
    inside = column < W
    offset = row * W + column
    rounded = tl.load(residual + offset, mask=inside, other=0.0)
    if SAVE:
        x = rounded.to(tl.float32)
        if HAS_ERROR:
            x += tl.load(error + offset, mask=inside, other=0).to(tl.float32) * error_unit(rounded)
        if HAS_UPDATE:
            s = tl.load(scale + column, mask=inside, other=0.0).to(tl.float32)
            b = tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
            x += tl.load(raw + offset, mask=inside, other=0.0).to(tl.float32) * s + b
        # From here on x is read in its saved form: the backward pass, which has no other, then norms the same numbers.
        rounded = x.to(saved.dtype.element_ty)
        tl.store(saved + offset, rounded, mask=inside)
        left = tl.floor((x - rounded.to(tl.float32)) / error_unit(rounded) + 0.5)
        # Half a last place is 128 units, one more than int8 holds.
        tl.store(error + offset, tl.minimum(tl.maximum(left, -128.0), 127.0).to(tl.int8), mask=inside)
    unit, _ = normalize(rounded.to(tl.float32), inside, W, eps)
    g = tl.load(gamma + column, mask=inside, other=0.0).to(tl.float32)
    y = unit * g + tl.load(beta + column, mask=inside, other=0.0).to(tl.float32)
    # Reordered in registers: stores by address in this order would break up each warp's 128 bytes.
    ordered = tl.reshape(to_mma_order(tl.reshape(y.to(normed.dtype.element_ty), (1, BLOCK)), ORDER, 1, BLOCK), (BLOCK,))
    tl.store(normed + row * normed_stride + column, ordered, mask=inside)
    if DROPOUT:
        keep = _row_keep(seed, number, stream, row, W, drop_limit, BLOCK)
        y = dropped(y, keep, drop_limit)
    if LORA_INPUT:
        tl.store(lora_input + offset, y.to(lora_input.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["stream"])
def residual_norm_grad_kernel(
    scaled_grad, grad_out, lora_grad, saved, gamma, beta, scale, next_scale, lora_input, grad_stride, W, eps,
    seed, number, stream, drop_limit,
    FIRST: tl.constexpr, HAS_LORA: tl.constexpr, DROPOUT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Reference: y = F.layer_norm(saved, (W,), gamma, beta, eps); dy = grad_out + F.dropout's gradient of lora_grad;
    scaled_grad = (torch.autograd.grad(y, saved, dy) + scaled_grad / scale) * next_scale      all [T, W].

    In place. FIRST: there is no gradient from above the norm yet. HAS_LORA: `lora_grad` is there, and the adapter's
    input, dropout(y), is recomputed."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < W
    offset = row * W + column
    unit, rstd = normalize(tl.load(saved + offset, mask=inside, other=0.0).to(tl.float32), inside, W, eps)
    g = tl.load(gamma + column, mask=inside, other=0.0).to(tl.float32)
    dy = tl.load(grad_out + row * grad_stride + column, mask=inside, other=0.0).to(tl.float32)
    if HAS_LORA:
        more = tl.load(lora_grad + offset, mask=inside, other=0.0).to(tl.float32)
        y = unit * g + tl.load(beta + column, mask=inside, other=0.0).to(tl.float32)
        if DROPOUT:
            # the same seed, number and stream give the mask of the forward pass, so none was kept
            keep = _row_keep(seed, number, stream, row, W, drop_limit, BLOCK)
            more = dropped(more, keep, drop_limit)
            y = dropped(y, keep, drop_limit)
        dy += more
        tl.store(lora_input + offset, y.to(lora_input.dtype.element_ty), mask=inside)
    weighted = tl.where(inside, dy * g, 0.0)
    # LayerNorm's gradient: what changes the mean or the deviation of a row has no effect, and is taken out.
    dx = (weighted - unit * (tl.sum(weighted * unit, 0) / W) - tl.sum(weighted, 0) / W) * rstd
    if not FIRST:
        # The stream's own gradient lies here times the scale of the linear that read it last; other=1: no 0 / 0.
        dx += tl.load(scaled_grad + offset, mask=inside, other=0.0).to(tl.float32) / tl.load(
            scale + column, mask=inside, other=1.0
        )
    # Times the next linear's scale: its raw product is what the next matmul differentiates, and needs no pass for it.
    dx *= tl.load(next_scale + column, mask=inside, other=0.0)
    tl.store(scaled_grad + offset, dx.to(scaled_grad.dtype.element_ty), mask=inside)


def row_launch(W: int) -> dict[str, int]:
    """A row in one program: the statistics need no second pass. 512 numbers a warp keep a thread's 16 in registers."""
    block = triton.next_power_of_2(W)
    return {"BLOCK": block, "num_warps": min(16, max(1, block // 512))}


class PendingUpdate(NamedTuple):
    """A linear's raw product that the residual stream still lacks: the next norm adds raw * scale + bias as it reads."""

    raw: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor


class Residual(NamedTuple):
    """The residual stream: what is saved of it, and what that rounding left (int8, in units of `error_unit`; None:
    nothing)."""

    rounded: torch.Tensor
    error: torch.Tensor | None


def residual_norm(
    residual: Residual,
    pending: PendingUpdate | None,
    norm: torch.nn.LayerNorm,
    normed_TW: torch.Tensor,
    lora_input_TW: torch.Tensor | None = None,
    *,
    dropout: Dropout | None = None,
    order: int = NATURAL_ORDER,
) -> Residual:
    """Adds the pending product to the residual stream and norms it into `normed_TW` (whose rows may be wider), in the
    `order` of columns; and with dropout, but in the columns' own order, into `lora_input_TW`. Returns the stream then,
    in the dtype of `normed_TW`: what came where nothing is pending and nothing is to round; `error` is written over."""
    before_TW, error_TW = residual
    T, W = before_TW.shape
    assert before_TW.is_contiguous() and len(normed_TW) == T and normed_TW.shape[1] >= W and normed_TW.stride(1) == 1
    assert lora_input_TW is None or (lora_input_TW.shape == (T, W) and lora_input_TW.is_contiguous())
    assert pending is None or (pending.raw.shape == (T, W) and pending.raw.is_contiguous())
    assert error_TW is None or (error_TW.dtype == torch.int8 and error_TW.is_contiguous())
    assert dropout is None or W % 8 == 0, "dropout draws eight columns at a time"
    # float32 comes once, from the embedding: it is rounded as if something had been added
    saves = pending is not None or before_TW.dtype != normed_TW.dtype
    saved_TW = torch.empty_like(before_TW, dtype=normed_TW.dtype) if saves else before_TW
    left_TW = torch.empty_like(before_TW, dtype=torch.int8) if saves and error_TW is None else error_TW
    raw, scale, bias = pending or (before_TW,) * 3  # a pointer that the kernel does not follow
    lora_input = normed_TW if lora_input_TW is None else lora_input_TW
    residual_norm_kernel[(T,)](
        before_TW, before_TW if left_TW is None else left_TW, raw, scale, bias, saved_TW, norm.weight, norm.bias, normed_TW, lora_input,
        normed_TW.stride(0), W, norm.eps, *drawn(dropout, normed_TW),
        HAS_UPDATE=pending is not None, HAS_ERROR=error_TW is not None, SAVE=saves, LORA_INPUT=lora_input_TW is not None,
        DROPOUT=lora_input_TW is not None and dropout is not None, ORDER=order, **row_launch(W),
    )  # fmt: skip
    return Residual(saved_TW, left_TW)


def residual_norm_grad(
    scaled_grad_TW: torch.Tensor,
    grad_out_TW: torch.Tensor,
    saved_TW: torch.Tensor,
    norm: torch.nn.LayerNorm,
    scale_W: torch.Tensor | None,
    next_scale_W: torch.Tensor,
    *,
    lora_grad_TW: torch.Tensor | None = None,
    lora_input_TW: torch.Tensor | None = None,
    dropout: Dropout | None = None,
) -> None:
    """The backward pass of `residual_norm`. `scaled_grad_TW` is the residual stream's gradient times `scale_W` (None:
    there is none yet), and then with the norm's times `next_scale_W` (both float32). `lora_grad_TW` is the adapter's
    part of the gradient; then `lora_input_TW` gets the adapter's input back."""
    T, W = scaled_grad_TW.shape
    assert scaled_grad_TW.is_contiguous() and saved_TW.is_contiguous() and saved_TW.shape == (T, W)
    assert grad_out_TW.stride(1) == 1 and next_scale_W.dtype == torch.float32
    assert (lora_grad_TW is None) == (lora_input_TW is None), "the adapter's gradient needs its input, and only that"
    residual_norm_grad_kernel[(T,)](
        scaled_grad_TW, grad_out_TW, grad_out_TW if lora_grad_TW is None else lora_grad_TW, saved_TW, norm.weight, norm.bias,
        next_scale_W if scale_W is None else scale_W, next_scale_W, grad_out_TW if lora_input_TW is None else lora_input_TW,
        grad_out_TW.stride(0), W, norm.eps, *drawn(dropout, grad_out_TW),
        FIRST=scale_W is None, HAS_LORA=lora_grad_TW is not None, DROPOUT=dropout is not None, **row_launch(W),
    )  # fmt: skip
