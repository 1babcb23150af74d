"""The Triton kernels of a gated MLP's middle, act(gate) * up, forward and backward: a pass over memory each, where autograd
takes three and keeps the activation beside both.

Shapes: T tokens, F the MLP's width."""

# ruff: noqa: E741, N803
# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-any-return"

from __future__ import annotations

from typing import Protocol

import torch
import triton
import triton.language as tl

from florilegium.fast.kernel_math import GELU_CUBIC, GELU_SCALE, gelu_and_gate

BLOCK = 2048  # 8 numbers a thread of 8 warps, 16 bytes of each tensor: as wide as a load can be


@triton.jit
def value_and_slope(x, ACT: tl.constexpr):
    """Reference: F.silu(x) or F.gelu(x, approximate="tanh"), and its derivative."""
    # decided when it is compiled: an activation is a kernel of its own
    if ACT == 0:
        gate = tl.sigmoid(x)
        return x * gate, gate * (1 + x * (1 - gate))
    y, gate = gelu_and_gate(x)
    # d(x * gate)/dx, where gate' = gate (1 - gate) u'(x)
    return y, gate + x * gate * (1 - gate) * GELU_SCALE * (1 + x * (3 * GELU_CUBIC) * x)


@triton.jit
def gated_kernel(gate, up, out, size, ACT: tl.constexpr, BLOCK: tl.constexpr):
    """Reference: out = act(gate) * up      all [T, F], contiguous."""
    # int64: T * F passes 2^31
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < size
    y, _ = value_and_slope(tl.load(gate + offset, mask=inside, other=0.0).to(tl.float32), ACT)
    u = tl.load(up + offset, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + offset, (y * u).to(out.dtype.element_ty), mask=inside)


@triton.jit
def gated_grad_kernel(gate, up, grad, grad_gate, grad_up, size, ACT: tl.constexpr, BLOCK: tl.constexpr):
    """Reference: grad_gate = grad * up * act'(gate); grad_up = grad * act(gate)      all [T, F], contiguous."""
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < size
    y, slope = value_and_slope(tl.load(gate + offset, mask=inside, other=0.0).to(tl.float32), ACT)
    u = tl.load(up + offset, mask=inside, other=0.0).to(tl.float32)
    # the activation is recomputed from gate, which costs nothing beside the bytes that it would take to keep it
    dy = tl.load(grad + offset, mask=inside, other=0.0).to(tl.float32)
    tl.store(grad_gate + offset, (dy * u * slope).to(gate.dtype.element_ty), mask=inside)
    tl.store(grad_up + offset, (dy * y).to(gate.dtype.element_ty), mask=inside)


def gated(gate_TF: torch.Tensor, up_TF: torch.Tensor, act: int) -> torch.Tensor:
    """act(gate) * up, of any like shapes."""
    assert gate_TF.shape == up_TF.shape and gate_TF.is_contiguous() and up_TF.is_contiguous()
    out, size = torch.empty_like(gate_TF), gate_TF.numel()
    gated_kernel[(triton.cdiv(size, BLOCK),)](gate_TF, up_TF, out, size, ACT=act, BLOCK=BLOCK, num_warps=8)
    return out


def gated_grad(
    gate_TF: torch.Tensor, up_TF: torch.Tensor, grad_TF: torch.Tensor, act: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients of gate and up."""
    assert gate_TF.shape == up_TF.shape == grad_TF.shape
    assert gate_TF.is_contiguous() and up_TF.is_contiguous() and grad_TF.is_contiguous()
    grad_gate, grad_up, size = torch.empty_like(gate_TF), torch.empty_like(up_TF), gate_TF.numel()
    gated_grad_kernel[(triton.cdiv(size, BLOCK),)](
        gate_TF, up_TF, grad_TF, grad_gate, grad_up, size, ACT=act, BLOCK=BLOCK, num_warps=8
    )
    return grad_gate, grad_up


class GatedContext(Protocol):
    """autograd's context."""

    saved_tensors: tuple[torch.Tensor, ...]
    act: int

    def save_for_backward(self, *tensors: torch.Tensor) -> None: ...


class Gated(torch.autograd.Function):
    """act(gate) * up, keeping the two alone."""

    @staticmethod
    def forward(ctx: GatedContext, gate: torch.Tensor, up: torch.Tensor, act: int) -> torch.Tensor:
        # views where one linear makes both halves
        gate, up = gate.contiguous(), up.contiguous()
        ctx.save_for_backward(gate, up)
        ctx.act = act
        return gated(gate, up, act)

    @staticmethod
    def backward(ctx: GatedContext, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        gate, up = ctx.saved_tensors
        return *gated_grad(gate, up, grads[0].contiguous(), ctx.act), None
