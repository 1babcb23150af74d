"""The frozen quantised linear: bitsandbytes' storage, our matrix product.

bitsandbytes holds an int8 weight as rows `CB` and one float32 `SCB` a row, weight[n, k] = CB[n, k] * SCB[n] / 127, and
an NF4 weight as 4-bit codes with a scale for each 64 of them. Its own int8 forward also rounds the *activations* to
int8 (LLM.int8) and keeps the layer's input for the backward pass. A frozen weight under an adapter wants neither: this
function multiplies by the dequantised weight, forward and backward, and saves references only: no input, no dequantised
copy. It is nearer to the true weights than LLM.int8 (0.2% against 0.5% of the output), and training and generation
compute the same.

`install` gives each quantised linear of a model this forward. The modules stay bitsandbytes', so saving, merging and
PEFT work as before, and `remove` takes it off again. Shapes: N outputs, K inputs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from types import MethodType
from typing import Any, Protocol

import torch
import torch.nn.functional as F

from florilegium.fast.dequantize import dequantize
from florilegium.fast.host_blocks import IN_TURN
from florilegium.fast.modules import QuantizedLinearModule


def weight_of(module: QuantizedLinearModule, dtype: torch.dtype) -> torch.Tensor:
    """The weight [N, K] that a bitsandbytes linear stands for, in `dtype`."""
    if hasattr(module.weight, "quant_state"):
        from bitsandbytes.functional import dequantize_4bit

        # `.to`: it comes in the dtype that it was quantised from.
        weight_NK: torch.Tensor = dequantize_4bit(module.weight.data, module.weight.quant_state).to(dtype)
        return weight_NK
    if module.weight.CB is not None and module.weight.SCB is not None:
        module.init_8bit_state()  # moves codes and scales from the parameter to module.state, as the stock forward does
    return dequantize(module.state.CB, module.state.SCB, dtype)


class FrozenLinearContext(Protocol):
    """autograd's context, with what is left on it for the backward pass."""

    weight: Callable[[torch.dtype], torch.Tensor]


class FrozenLinear(torch.autograd.Function):
    """y = x W^T + b for a weight and bias that take no gradient. `weight(dtype)` makes W anew, forward and backward.

    Reference: F.linear(x, weight(x.dtype), bias)"""

    @staticmethod
    def forward(
        ctx: FrozenLinearContext,
        x: torch.Tensor,
        weight: Callable[[torch.dtype], torch.Tensor],
        bias_N: torch.Tensor | None,
    ) -> torch.Tensor:
        ctx.weight = weight  # the function, and not what it makes: neither W nor x is kept for the backward pass
        return F.linear(x, weight(x.dtype), None if bias_N is None else bias_N.to(x.dtype))

    @staticmethod
    def backward(ctx: FrozenLinearContext, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        # Made a second time: a pass over its bytes is cheaper than [N, K] kept for every layer.
        return grads[0] @ ctx.weight(grads[0].dtype), None, None


def forward(module: QuantizedLinearModule, x: torch.Tensor) -> torch.Tensor:
    """The forward pass that `install` puts on a bitsandbytes linear."""
    weight_NK = module.__dict__.get("dequantized_NK")  # in __dict__: a module's own setattr would register a buffer
    if weight_NK is not None:
        return F.linear(x, weight_NK, None if module.bias is None else module.bias.to(x.dtype))
    apply: Any = FrozenLinear.apply
    out: torch.Tensor = apply(x, partial(weight_of, module), module.bias)
    return out


def install(model: torch.nn.Module) -> int:
    """Gives every frozen quantised linear in `model` the fast forward; returns how many there were."""
    modules = quantized_linears(model)
    for module in modules:
        module.forward = MethodType(forward, module)  # of this instance, not of the class
    return len(modules)


def remove(model: torch.nn.Module) -> None:
    """Back to bitsandbytes' own forward."""
    for module in quantized_linears(model):
        module.__dict__.pop("forward", None)


def quantized_linears(model: torch.nn.Module) -> list[Any]:  # bitsandbytes' modules, whose methods are replaced
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    # has_fp16_weights: LLM.int8's training form, whose weight is not frozen
    found = (m for m in model.modules() if isinstance(m, (Linear8bitLt, Linear4bit)))
    return [m for m in found if isinstance(m, Linear4bit) or not m.state.has_fp16_weights]


@contextlib.contextmanager
def dequantized_once(model: torch.nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Inside, each linear that `install` changed multiplies by a dequantised copy of its weight, made once: a decoder
    uses it for every token. Where the copies would take more than half of the free memory, nothing is copied."""
    # a weight that lies in host memory is not there to be copied
    modules = [m for m in quantized_linears(model) if "forward" in m.__dict__ and IN_TURN not in m.__dict__]
    # half: the decoder's cache and the caller's own arrays want the rest
    if sum(m.in_features * m.out_features for m in modules) * dtype.itemsize > _free_memory() // 2:
        modules = []
    for module in modules:
        module.__dict__["dequantized_NK"] = weight_of(module, dtype)
    try:
        yield
    finally:
        for module in modules:
            module.__dict__.pop("dequantized_NK", None)


@contextlib.contextmanager
def lend_dequantized(owner: torch.nn.Module, borrower: torch.nn.Module) -> Iterator[None]:
    """Inside, the borrower, another set of modules over the same weights, multiplies by the copies of the owner's
    `dequantized_once`, where it made some."""
    pairs = list(zip(quantized_linears(owner), quantized_linears(borrower), strict=True))
    # where memory did not allow copies the owner has none
    lent = [
        (mine, theirs) for mine, theirs in pairs if "dequantized_NK" in mine.__dict__ and "forward" in theirs.__dict__
    ]
    for mine, theirs in lent:
        theirs.__dict__["dequantized_NK"] = mine.__dict__["dequantized_NK"]
    try:
        yield
    finally:
        for _, theirs in lent:
            theirs.__dict__.pop("dequantized_NK", None)


def _free_memory() -> int:
    """Bytes of memory that can still be had, by Linux' own count; elsewhere none."""
    with contextlib.suppress(OSError), open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 0
