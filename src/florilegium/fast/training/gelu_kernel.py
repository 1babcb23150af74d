"""The Triton kernels of a BLOOM block's GELU where no matmul does it on the way (`quantized_linear.py`): forward, and
backward into the gradient of the raw product.

They read the raw product of `dense_h_to_4h` and apply its scale and bias as they pass. One program a stretch of 4,096
elements, whatever the row. Shapes: T tokens, F = 4W."""

# ruff: noqa: E741, N803
# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-any-return"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from florilegium.fast.kernel_math import GELU_CUBIC, GELU_SCALE, gelu_and_gate

BLOCK = 4096  # 16 numbers a thread of 8 warps: enough loads on the way to hide the memory's latency


@triton.jit
def gelu_kernel(raw, scale, bias, out, out_stride, F, size, BLOCK: tl.constexpr):
    """Reference: out = F.gelu(raw * scale + bias, approximate="tanh")      raw, out [T, F], the rows of `out`
    `out_stride` apart; scale, bias [F]."""
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)  # T * F passes 2^31 at 131,072 tokens of 7b1
    inside = offset < size
    column = offset % F  # a program's stretch may begin and end inside a row
    x = tl.load(raw + offset, mask=inside, other=0.0).to(tl.float32) * tl.load(scale + column).to(tl.float32)
    y, _ = gelu_and_gate(x + tl.load(bias + column).to(tl.float32))
    tl.store(out + offset // F * out_stride + column, y.to(out.dtype.element_ty), mask=inside)


@triton.jit
def gelu_grad_kernel(raw, scale, bias, grad, grad_stride, F, size, BLOCK: tl.constexpr):
    """Reference: grad = grad * gelu'(raw * scale + bias) * scale, in place      raw, grad [T, F], the rows of `grad`
    `grad_stride` apart; scale, bias [F]."""
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < size
    column = offset % F
    s = tl.load(scale + column).to(tl.float32)
    x = tl.load(raw + offset, mask=inside, other=0.0).to(tl.float32) * s + tl.load(bias + column).to(tl.float32)
    _, gate = gelu_and_gate(x)
    # d(x * gate)/dx, where gate' = gate (1 - gate) u'(x)
    slope = gate + x * gate * (1 - gate) * GELU_SCALE * (1 + x * (3 * GELU_CUBIC) * x)
    here = grad + offset // F * grad_stride + column
    dy = tl.load(here, mask=inside, other=0.0).to(tl.float32)
    # times s: the next matmul differentiates the raw product, which raw * scale came from
    tl.store(here, (dy * slope * s).to(grad.dtype.element_ty), mask=inside)


def gelu(raw_TF: torch.Tensor, scale_F: torch.Tensor, bias_F: torch.Tensor, out_TF: torch.Tensor) -> None:
    """Writes it to `out_TF`, whose rows may lie further apart."""
    assert raw_TF.is_contiguous() and len(scale_F) == len(bias_F) == raw_TF.shape[1]
    assert out_TF.shape == raw_TF.shape and out_TF.stride(1) == 1
    size = raw_TF.numel()
    gelu_kernel[(triton.cdiv(size, BLOCK),)](
        raw_TF, scale_F, bias_F, out_TF, out_TF.stride(0), raw_TF.shape[1], size, BLOCK=BLOCK, num_warps=8
    )


def gelu_grad(raw_TF: torch.Tensor, scale_F: torch.Tensor, bias_F: torch.Tensor, grad_TF: torch.Tensor) -> None:
    """Turns the gradient of gelu's output into that of the raw product, in place; its rows may lie further
    apart."""
    assert raw_TF.is_contiguous() and grad_TF.stride(1) == 1 and grad_TF.shape == raw_TF.shape
    size = raw_TF.numel()
    gelu_grad_kernel[(triton.cdiv(size, BLOCK),)](
        raw_TF, scale_F, bias_F, grad_TF, grad_TF.stride(0), raw_TF.shape[1], size, BLOCK=BLOCK, num_warps=8
    )
