"""The layers' parts on a CPU: torch's own operations, with less kept for the backward pass than autograd would, and no score
computed between two documents.

A dropout's draws cost as much here as some of the layer's products, so they are not made twice: a bit for each number of x is
kept, a sixteenth of x."""

from __future__ import annotations

import functools
from typing import Any, Protocol, cast

import numpy as np
import torch
import torch.nn.functional as F

from florilegium.fast.frozen_linear import weight_of
from florilegium.fast.layers.packed_rows import PackedRows
from florilegium.fast.layers.parts import SILU
from florilegium.fast.modules import Linear, LoraLayer, QuantizedLinearModule, row_absmax
from florilegium.reference import Dropout, dropout_keep


class CpuParts:
    # no kernels, no limits: what torch takes
    attention_name = "florilegium_documents_on_cpu"
    widest_head = 1 << 20
    takes_windows = True
    multiple = 1

    def linear_unsupported(self, layer: LoraLayer) -> str:
        return ""

    def product(self, x_TK: torch.Tensor, linear: Linear, buffer: torch.Tensor) -> torch.Tensor:
        # made anew each time: kept for all layers it would be the base again in 16 bits
        weight_NK, scale_N = _weight(linear, buffer.dtype)
        y_TN = x_TK @ weight_NK.T
        if scale_N is not None:
            y_TN *= scale_N
        return y_TN if linear.bias is None else y_TN.add_(linear.bias)

    def product_grad(self, grad_TN: torch.Tensor, linear: Linear, buffer: torch.Tensor) -> torch.Tensor:
        weight_NK, scale_N = _weight(linear, buffer.dtype)
        return (grad_TN if scale_N is None else (grad_TN * scale_N).to(grad_TN.dtype)) @ weight_NK

    def kept(self, dropout: Dropout | None, width: int) -> torch.Tensor | None:
        if dropout is None:
            return None
        keep_TK = dropout_keep(int(dropout.seed), dropout.stream, dropout.number_T, width, dropout.drop_limit)
        # eight to a byte
        return torch.from_numpy(np.packbits(keep_TK.numpy(), axis=-1, bitorder="little"))

    def down_projection(
        self, x_TK: torch.Tensor, a_RK: torch.Tensor, columns: int, dropout: Dropout | None, kept: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        down = _dropped(x_TK, dropout, kept) @ a_RK.T
        return down, F.pad(down, (0, columns - down.shape[1]))

    def down_projection_grad(self, grad_TN: torch.Tensor, b_NR: torch.Tensor, rank: int) -> torch.Tensor:
        # the columns beyond the rank are zeros, for the kernels' sake
        return grad_TN @ b_NR[:, :rank]

    def lora_gradients(
        self, x_TK: torch.Tensor, down_grad: torch.Tensor, grad_TN: torch.Tensor, down: torch.Tensor, rescale_N: torch.Tensor,
        dropout: Dropout | None, kept: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        # sums of float32, rounded once to 16 bits: what AdamW reads is float32 again
        grad_a = down_grad.T @ _dropped(x_TK, dropout, kept)
        return grad_a.float(), (grad_TN.T @ down).float() * rescale_N[:, None]

    def add_input_grad(
        self, grad_TK: torch.Tensor, down_grad: torch.Tensor, a_RK: torch.Tensor, dropout: Dropout | None, kept: torch.Tensor | None
    ) -> None:  # fmt: skip
        if dropout is None:
            # no second [T, K] where nothing is dropped
            grad_TK.addmm_(down_grad, a_RK)
        else:
            grad_TK += _dropped(down_grad @ a_RK, dropout, kept)

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, epsilon: float | None) -> torch.Tensor:
        # a norm that is trained is rare, and torch knows its gradient
        if weight.requires_grad:
            return F.rms_norm(x, weight.shape, weight, epsilon)
        return cast(torch.Tensor, cast(Any, RmsNorm.apply)(x, weight, epsilon or torch.finfo(x.dtype).eps))

    def gate(self, gate: torch.Tensor, up: torch.Tensor, act: int) -> torch.Tensor:
        return cast(torch.Tensor, cast(Any, Gate.apply)(gate, up, act))

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: PackedRows, window: int | None
    ) -> torch.Tensor:
        groups = q.shape[1] // k.shape[1]
        if groups > 1:
            # torch's attention on a CPU takes no groups
            k, v = (x[:, :, None].expand(-1, -1, groups, -1).flatten(1, 2) for x in (k, v))
        # in float32 there is nothing to convert, and autograd does as well
        if q.dtype == torch.float32:
            return _attend(q, k, v, rows.sizes, window)
        return cast(torch.Tensor, cast(Any, Attention16.apply)(q, k, v, rows.sizes, window))


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, sizes: list[int], window: int | None) -> torch.Tensor:
    """[T, H, D], a document at a time."""
    found = []
    # split, whose gradient is one concatenation: a slice's would be a whole tensor of zeros for each document
    for parts in zip(*(torch.split(x, sizes) for x in (q, k, v)), strict=True):
        one_q, one_k, one_v = (x.transpose(0, 1)[None] for x in parts)
        # most documents are within it, and then a mask would only cost
        mask = _near(len(parts[0]), window) if window and len(parts[0]) > window else None
        one = F.scaled_dot_product_attention(one_q, one_k, one_v, attn_mask=mask, is_causal=mask is None)
        found.append(one[0].transpose(0, 1))
    return torch.cat(found)


def _near(size: int, window: int) -> torch.Tensor:
    """Whether a token may read another: itself and the window - 1 before it."""
    index = torch.arange(size)
    distance = index[:, None] - index
    return (distance >= 0) & (distance < window)


def _weight(linear: Linear, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor | None]:
    """[N, K] in `dtype`, and what its rows are to be multiplied by: int8 is exact in 16 bits, and [T, N] is less than
    [N, K]."""
    weight = linear.weight
    if hasattr(weight, "quant_state"):
        return weight_of(cast(QuantizedLinearModule, linear), dtype), None
    # a base of 16 or 32 bits is read where it lies
    if weight.dtype != torch.int8:
        return weight, None
    # in float32, and the product is rounded once more: rounded to 16 bits it would be off the same way in every token
    return weight.data.to(dtype), row_absmax(linear).float() / 127


def _dropped(x: torch.Tensor, dropout: Dropout | None, kept: torch.Tensor | None) -> torch.Tensor:
    """`x` [T, K], or a gradient of it, after the draws that are `kept`."""
    # an evaluation, or a dropout of 0: no copy is made
    if dropout is None or kept is None:
        return x
    keep_TK = F.embedding(kept.int(), _table(x.dtype)).flatten(1)[:, : x.shape[1]]
    # the factor last, which is not rounded to 16 bits then
    return (x * keep_TK).mul_(65536 / (65536 - dropout.drop_limit))


@functools.cache
def _table(dtype: torch.dtype) -> torch.Tensor:
    """[256, 8]: the bits of each byte, from the lowest on, as zeros and ones."""
    return ((torch.arange(256)[:, None] >> torch.arange(8)) & 1).to(dtype)


class Context(Protocol):
    """autograd's context, with what these leave on it."""

    saved_tensors: tuple[torch.Tensor, ...]
    act: int
    sizes: list[int]
    window: int | None

    def save_for_backward(self, *tensors: torch.Tensor) -> None: ...


class Attention16(torch.autograd.Function):
    """`_attend` in 16 bits, whose way back torch computes four times as fast in float32, the way there with it."""

    @staticmethod
    def forward(
        ctx: Context, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, sizes: list[int], window: int | None
    ) -> torch.Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.sizes, ctx.window = sizes, window
        return _attend(q, k, v, sizes, window)

    @staticmethod
    def backward(ctx: Context, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        in_float32 = [x.detach().float().requires_grad_() for x in ctx.saved_tensors]
        # inside a backward pass nothing is recorded unless it is asked for
        with torch.enable_grad():
            out = _attend(in_float32[0], in_float32[1], in_float32[2], ctx.sizes, ctx.window)
        found = torch.autograd.grad(out, in_float32, grads[0].float())
        return *(x.to(grads[0].dtype) for x in found), None, None


class RmsNorm(torch.autograd.Function):
    """RMSNorm under a frozen weight, computed in float32, keeping x and a number for each row."""

    @staticmethod
    def forward(ctx: Context, x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        exact = x.float()
        scale = torch.rsqrt(exact.square().mean(-1, keepdim=True) + epsilon)
        ctx.save_for_backward(x, weight, scale)
        return (exact * scale * weight).to(x.dtype)

    @staticmethod
    def backward(ctx: Context, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        x, weight, scale = ctx.saved_tensors
        # in float32 from here: the mean over a row cancels
        grad, normed = grads[0].float() * weight, x.float() * scale
        # d(x s)/dx, where s' = -s^3 x / K
        return (scale * (grad - normed * (grad * normed).mean(-1, keepdim=True))).to(x.dtype), None, None


class Gate(torch.autograd.Function):
    """act(gate) * up, keeping the two alone."""

    @staticmethod
    def forward(ctx: Context, gate: torch.Tensor, up: torch.Tensor, act: int) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        ctx.act = act
        # the activation is computed again on the way back: it costs less than the memory it takes
        return _act(gate, act) * up

    @staticmethod
    def backward(ctx: Context, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        (gate, up), grad = ctx.saved_tensors, grads[0]
        slope: Any = torch.ops.aten.silu_backward if ctx.act == SILU else torch.ops.aten.gelu_backward
        more = {} if ctx.act == SILU else {"approximate": "tanh"}
        return slope(grad * up, gate, **more), grad * _act(gate, ctx.act), None


def _act(gate: torch.Tensor, act: int) -> torch.Tensor:
    return F.silu(gate) if act == SILU else F.gelu(gate, approximate="tanh")


ON_CPU = CpuParts()
