"""A frozen linear with LoRA, or without, as one function forward and backward: y = x W^T + bias + scaling dropout(x) A^T B^T.

PEFT's own casts x to float32 for its two thin products, and autograd keeps that copy, the dropped one and the mask for each
linear: of an 8B Llama 5 MB a token for the copies alone. Here x itself is kept, which the linears that read it share, and the
adapter's x A^T. W is dequantised for one product at a time, and again on the way back; a base of 16 bits is read where it
lies. Dropout is drawn by the token's number in its step. What multiplies is `parts.py`'s.

The reference is PEFT's forward pass with `model/row_dropout.py`. Shapes: T tokens, N outputs, K inputs, R the adapter's rank
rounded up to 8."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import MethodType
from typing import Any, Protocol, cast

import torch
from torch import nn

from florilegium.fast.layers.packed_rows import PackedRows, rows_of
from florilegium.fast.layers.parts import LayerParts
from florilegium.fast.modules import Linear, Lora, LoraLayer, base_linear, lora_of
from florilegium.reference import Dropout


@dataclass
class LoraLinear:
    """One linear. `buffer` is room for a dequantised weight, which all linears share; `a_RK` and `b_NR` are the adapter of
    this pass in the compute dtype, B times its scaling."""

    module: Linear
    lora: Lora | None
    stream: int
    buffer: torch.Tensor
    parts: LayerParts
    a_RK: torch.Tensor = field(init=False)
    b_NR: torch.Tensor = field(init=False)
    rescale_N: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        if self.lora is not None:
            rank, N = len(self.lora.A_RK), self.module.out_features
            self.a_RK = self.lora.A_RK.detach().to(self.buffer.dtype)
            # the product reads rows of the adapter at multiples of 16 bytes, 8 numbers
            self.b_NR = self.buffer.new_zeros(N, -(-rank // 8) * 8)
            # the gradient of B is that of B * scaling, times it
            self.rescale_N = torch.full((N,), self.lora.scaling, dtype=torch.float32, device=self.buffer.device)

    def dropout(self, rows: PackedRows) -> Dropout | None:
        # an evaluation has no seed
        if self.lora is None or not self.lora.dropout or rows.seed is None:
            return None
        return Dropout(rows.seed, rows.number_T, self.stream, self.lora.dropout)


class LoraLinearContext(Protocol):
    """autograd's context, with what the pass leaves on it."""

    saved_tensors: tuple[torch.Tensor, ...]
    needs_input_grad: tuple[bool, ...]
    linear: LoraLinear
    drawn: Dropout | None

    def save_for_backward(self, *tensors: torch.Tensor) -> None: ...


class LoraLinearFunction(torch.autograd.Function):
    """`x` [T, K] to [T, N]; A and B are given for autograd to see, and read where the linear has them."""

    @staticmethod
    def forward(
        ctx: LoraLinearContext, x: torch.Tensor, linear: LoraLinear, rows: PackedRows, *lora: torch.Tensor
    ) -> torch.Tensor:
        ctx.linear, ctx.drawn = linear, linear.dropout(rows)
        y = linear.parts.product(x, linear.module, linear.buffer)
        if not lora:
            return y
        # x A^T twice: as the gradients of B read it, and in R columns, zeros beyond the rank, as the product below wants it
        kept = linear.parts.kept(ctx.drawn, x.shape[1])
        x_at, beside = linear.parts.down_projection(x, linear.a_RK, linear.b_NR.shape[1], ctx.drawn, kept)
        ctx.save_for_backward(x, x_at, *([] if kept is None else [kept]))
        # in place: a second pass over y, which a copy of x with R more columns for one wider product would cost as well
        return y.addmm_(beside, linear.b_NR.T)

    @staticmethod
    def backward(ctx: LoraLinearContext, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        linear, grad_TN = ctx.linear, grads[0].contiguous()
        grad_TK = linear.parts.product_grad(grad_TN, linear.module, linear.buffer) if ctx.needs_input_grad[0] else None
        if linear.lora is None:
            return grad_TK, None, None
        x, x_at, *more = ctx.saved_tensors
        kept, parts, drawn = more[0] if more else None, linear.parts, ctx.drawn
        # thin products, bound by their launches: in a recorded step there are none
        x_at_grad = parts.down_projection_grad(grad_TN, linear.b_NR, x_at.shape[1])
        grad_a, grad_b = parts.lora_gradients(x, x_at_grad, grad_TN, x_at, linear.rescale_N, drawn, kept)
        if grad_TK is not None:
            # after the gradients of A and B, which read what it does not write
            parts.add_input_grad(grad_TK, x_at_grad, linear.a_RK, drawn, kept)
        return grad_TK, None, None, grad_a, grad_b


def lora_linears(model: nn.Module, dtype: torch.dtype, parts: LayerParts) -> list[tuple[nn.Module, LoraLinear]]:
    """The layers of PEFT, and the quantised linears without one, that `install` can change, each with what it becomes;
    dropout's streams are numbered as `row_dropout.py` has them."""
    from peft.tuners.lora import LoraLayer as PeftLayer

    layers = [module for module in model.modules() if isinstance(module, PeftLayer)]
    # what PEFT wraps is called by its layer, whose forward is ours
    wrapped = {id(layer.base_layer) for layer in layers}
    taken: list[tuple[nn.Module, int]] = [
        (cast(nn.Module, layer), stream) for stream, layer in enumerate(layers) if not unsupported_reason(layer, parts)
    ]
    taken += [(m, 0) for m in model.modules() if _is_quantized(m) and id(m) not in wrapped]
    sizes = [_size(cast(Any, layer)) for layer, _ in taken]
    device = next(model.parameters()).device
    # one for all, so that a recorded step reads and writes the same memory each time
    buffer = torch.empty(max(sizes, default=0), dtype=dtype, device=device)
    return [
        (layer, LoraLinear(base_linear(cast(Any, layer)), lora_of(cast(Any, layer)), stream, buffer, parts))
        for layer, stream in taken
    ]


def _size(layer: Linear | LoraLayer) -> int:
    """Numbers of a weight that is dequantised; 0 of one that is read as it is."""
    module = base_linear(layer)
    return module.out_features * module.in_features if _is_quantized(module) else 0


def _is_quantized(module: object) -> bool:
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    return isinstance(module, (Linear8bitLt, Linear4bit))


def unsupported_reason(layer: Any, parts: LayerParts) -> str:
    """Why a LoRA layer of PEFT's stays PEFT's, or an empty string."""
    base = layer.base_layer
    if any(parameter.requires_grad for parameter in base.parameters()):
        return "the base's own weights or biases are trained"
    # the class itself: a subclass may compute something else
    if type(base) is not nn.Linear and not _is_quantized(base):
        return "it is no linear"
    names = layer.active_adapters
    if len(names) != 1 or layer.merged or layer.disable_adapters or getattr(layer, "lora_variant", None):
        return "the adapter is not plain LoRA"
    if layer.lora_B[names[0]].bias is not None:
        return "the adapter has a bias"
    return parts.linear_unsupported(layer)


def install(layer: nn.Module, linear: LoraLinear) -> None:
    """Gives PEFT's layer, or the quantised linear, the fused forward for packed rows."""
    plain = layer.forward
    lora = () if linear.lora is None else (linear.lora.A_RK, linear.lora.B_NR)

    def forward(self: nn.Module, x: torch.Tensor, *more: object, **options: object) -> torch.Tensor:
        # another dtype: PEFT casts, and so does the plain forward; experts of a mixture get some of the tokens
        rows = None if more or options or x.dtype != linear.buffer.dtype else rows_of(x)
        if rows is None or getattr(self, "disable_adapters", False):
            return cast(torch.Tensor, plain(x, *more, **options))
        # A and B are arguments for autograd to see; what is read is the linear's copy of them, in 16 bits where it computes so
        y: torch.Tensor = cast(Any, LoraLinearFunction.apply)(x.flatten(0, -2).contiguous(), linear, rows, *lora)
        return y.view(*x.shape[:-1], -1)

    layer.forward = MethodType(forward, layer)  # of this instance, not of the class


def begin_pass(linears: Sequence[LoraLinear]) -> None:
    """Takes the adapter as it is now into the compute dtype, in a few launches for all: it changes between passes, and
    forward and backward must read the same."""
    with_lora = [(linear, linear.lora) for linear in linears if linear.lora is not None]
    if not with_lora:
        return
    torch._foreach_copy_([linear.a_RK for linear, _ in with_lora], [lora.A_RK.detach() for _, lora in with_lora])
    # scaled in float32, so that B is rounded once
    scaled = torch._foreach_mul([lora.B_NR.detach() for _, lora in with_lora], [lora.scaling for _, lora in with_lora])
    torch._foreach_copy_([linear.b_NR[:, : len(lora.A_RK)] for linear, lora in with_lora], list(scaled))
