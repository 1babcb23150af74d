"""A frozen quantised linear as the trunk reads it: bitsandbytes' codes, made wide for one product and forgotten.

    codes  int8 [N, K], exact in bfloat16            y = (x codes^T) * scale + bias
    NF4    4 bits a weight, a scale for each 64      y = (x weight^T) + bias           (scale is 1)

The product reads bfloat16, so codes must be made wide: 6 ms a pass over bloom-7b1 if memory does nothing else. A weight that has a `copy`
(where the card has room: `trunk.Plan`) is made wide once for the whole run; it is a cache, the base stays quantised.

A linear with LoRA is R columns wider: beside the codes lie those of B * scaling / scale, beside its input x A^T, so that the adapter costs
no product of its own. Shapes: N outputs, K inputs, R the adapter's rank rounded up to 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from florilegium.fast import block_kernel, expand_kernel


@dataclass(frozen=True)
class Lora:
    """PEFT's LoRA on a linear. `A_RK` and `B_NR` are the live float32 parameters."""

    A_RK: torch.Tensor
    B_NR: torch.Tensor
    scaling: float
    drop: float


@dataclass
class Frozen:
    """One quantised linear of a block, `module` being bitsandbytes' own."""

    module: Any
    scale_N: torch.Tensor
    bias_N: torch.Tensor
    N: int
    K: int
    R: int = 0
    lora: Lora | None = None
    copy: torch.Tensor | None = None

    def __post_init__(self) -> None:
        scaling = self.lora.scaling if self.lora else 1.0
        self.unfolding_N = scaling / self.scale_N  # what `fold` multiplied B by

    @property
    def elements(self) -> int:
        return self.N * (self.K + self.R)

    def expand(self, buffer: torch.Tensor) -> torch.Tensor:
        """The codes [N, K + R] in the dtype of `buffer`, in it; the adapter's columns are `fold`'s."""
        wide = buffer[: self.elements].view(self.N, self.K + self.R)
        state = getattr(self.module.weight, "quant_state", None)
        if state is None:
            expand_kernel.widen(self.module.weight.data, None, wide[:, : self.K])
        else:
            expand_kernel.widen_nf4(self.module.weight.data, state, wide[:, : self.K])
        return wide

    def fold(self, wide: torch.Tensor) -> None:
        """Writes the adapter's B as it is now beside the codes."""
        if self.lora is not None:
            block_kernel.fold(self.lora.B_NR, self.scale_N, self.lora.scaling, wide[:, self.K :])


def frozen(layer: Any) -> Frozen:
    """A linear of BLOOM, with or without PEFT's LoRA around it, as `Frozen`."""
    module = getattr(layer, "base_layer", layer)
    weight = module.weight
    N, K = module.out_features, module.in_features
    if hasattr(weight, "quant_state"):
        scale_N = torch.ones(N, device=weight.device)
    else:
        codes_scale = weight.SCB if weight.SCB is not None else module.state.SCB
        scale_N = codes_scale.float() / 127
        scale_N[scale_N == 0] = 1  # a row of zeros: its codes are zero at any scale, and the adapter's columns are divided by it
    bias_N = module.bias if module.bias is not None else torch.zeros(N, device=weight.device, dtype=torch.bfloat16)
    lora = lora_of(layer)
    R = -(-lora.A_RK.shape[0] // 8) * 8 if lora else 0
    return Frozen(module, scale_N, bias_N, N, K, R, lora)


def lora_of(layer: Any) -> Lora | None:
    if not hasattr(layer, "base_layer") or layer.disable_adapters:
        return None
    (name,) = layer.active_adapters
    drop = float(getattr(layer.lora_dropout[name], "p", 0.0))
    return Lora(layer.lora_A[name].weight, layer.lora_B[name].weight, float(layer.scaling[name]), drop)


class Feed:
    """Hands out the wide weights of `order`, one a call of `take`, each valid until the next call."""

    def __init__(self, order: Sequence[Frozen], buffer: torch.Tensor, *, folded: bool = False) -> None:
        """`folded`: the copies hold the adapter's B already, as they do on the road home."""
        self.order, self.buffer, self.folded = iter(order), buffer, folded

    def take(self) -> torch.Tensor:
        linear = next(self.order)
        wide = linear.copy if linear.copy is not None else linear.expand(self.buffer)
        if linear.copy is None or not self.folded:
            linear.fold(wide)
        return wide
