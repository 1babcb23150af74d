"""The frozen int8 linear: bitsandbytes' storage, our matrix product.

bitsandbytes holds a weight as int8 rows `CB` and one float32 `SCB` a row: weight[n, k] = CB[n, k] * SCB[n] / 127. Its own forward also
rounds the *activations* to int8 (LLM.int8) and keeps the layer's input for the backward pass. A frozen weight under an adapter wants
neither: this function multiplies by the dequantised weight, forward and backward, and saves references only: no input, no dequantised
copy. It is nearer to the true weights than LLM.int8 (0.2% against 0.5% of the output), and training and generation compute the same.

`install` gives each Linear8bitLt of a model this forward. The modules stay bitsandbytes', so saving, merging and PEFT work as before,
and `remove` takes it off again. Shapes: N outputs, K inputs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F


def dequantise(codes_NK: torch.Tensor, scale_N: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The weight [N, K] in `dtype`, rounded once."""
    if dtype == torch.float32:
        return codes_NK.to(dtype).mul_((scale_N / 127)[:, None])
    # Whole numbers up to 127 are exact in bfloat16, so the only rounding is that of the product.
    return torch.mul(codes_NK, (scale_N / 127)[:, None]).to(dtype)


class FrozenInt8Linear(torch.autograd.Function):
    """y = x W^T + b for a weight and bias that take no gradient; saves references to the codes and scales only."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, codes_NK: torch.Tensor, scale_N: torch.Tensor, bias_N: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(codes_NK, scale_N)
        return F.linear(x, dequantise(codes_NK, scale_N, x.dtype), None if bias_N is None else bias_N.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        codes_NK, scale_N = ctx.saved_tensors
        (grad_y,) = grads
        return grad_y @ dequantise(codes_NK, scale_N, grad_y.dtype), None, None, None


def forward(module: Any, x: torch.Tensor) -> torch.Tensor:
    """The forward pass that `install` puts on a bitsandbytes Linear8bitLt."""
    if module.weight.CB is not None:
        module.init_8bit_state()  # moves codes and scales from the parameter to module.state, as the stock forward does
    weight_NK = module.__dict__.get("dequantised_NK")
    if weight_NK is not None:
        return F.linear(x, weight_NK, None if module.bias is None else module.bias.to(x.dtype))
    apply: Any = FrozenInt8Linear.apply
    out: torch.Tensor = apply(x, module.state.CB, module.state.SCB, module.bias)
    return out


@contextlib.contextmanager
def dequantised_once(model: torch.nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Inside, each linear that `install` changed multiplies by a dequantised copy of its weight, made once: a decoder uses it for
    every token. Where the copies would take more than half of the free memory, nothing is copied."""
    modules: list[Any] = [m for m in _linears(model) if "forward" in m.__dict__]
    if sum(m.in_features * m.out_features for m in modules) * dtype.itemsize > _free_memory() // 2:
        modules = []
    for module in modules:
        if module.weight.CB is not None:
            module.init_8bit_state()
        module.__dict__["dequantised_NK"] = dequantise(module.state.CB, module.state.SCB, dtype)
    try:
        yield
    finally:
        for module in modules:
            module.__dict__.pop("dequantised_NK", None)


def _free_memory() -> int:
    """Bytes of memory that can still be had, by Linux' own count; elsewhere none."""
    with contextlib.suppress(OSError), open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 0


def install(model: torch.nn.Module) -> int:
    """Gives every frozen Linear8bitLt in `model` the fast forward; returns how many there were."""
    modules = _linears(model)
    for module in modules:
        module.forward = MethodType(forward, module)  # of this instance, not of the class
    return len(modules)


def remove(model: torch.nn.Module) -> None:
    """Back to bitsandbytes' own forward."""
    for module in _linears(model):
        module.__dict__.pop("forward", None)


def _linears(model: torch.nn.Module) -> list[torch.nn.Module]:
    from bitsandbytes.nn import Linear8bitLt

    return [m for m in model.modules() if isinstance(m, Linear8bitLt) and not m.state.has_fp16_weights]
