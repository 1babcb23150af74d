"""A frozen quantised linear as the trunk reads it: bitsandbytes' codes, and the products with them.

    codes  int8 [N, K], exact in bfloat16            y = (x codes^T) * scale + bias
    NF4    4 bits a weight, a scale for each 64      y = (x weight^T) + bias           (scale is 1)

There are three ways to a product. A Hopper GPU reads large int8 weights as they are stored (`int8_matmul.py`).
Elsewhere the product reads bfloat16, so codes are made wide for one product and forgotten: 6 ms a pass over bloom-7b1
if memory does nothing else. A weight that has a `copy` (where the card has room: `trunk.Plan`) is made wide once for
the whole run; it is a cache, the base stays quantised.

A linear with LoRA is R columns wider: beside the codes lie those of B * scaling / scale, beside its input x A^T, so
that the adapter costs no product of its own (but for its gradient where codes are read as they are stored). Shapes: T
tokens, N outputs, K inputs, R the adapter's rank rounded up to 8."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from florilegium.fast.training import dequantize_kernel as expand_kernel
from florilegium.fast.training import lora_kernel as adapter_kernel
from florilegium.fast.training import norm_gelu_kernel as block_kernel


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
    stored_forward: bool = False  # whether the product reads the codes as they are stored
    stored_backward: bool = False

    def __post_init__(self) -> None:
        scaling = self.lora.scaling if self.lora else 1.0
        self.unfolding_N = scaling / self.scale_N  # what `fold` multiplied B by

    @property
    def form(self) -> int:
        """The order of columns in which the product wants its input (`codes_kernel.lane_order`; that of 4, which int8
        takes here too)."""
        return 4 if self.stored_forward else 16

    @property
    def stride(self) -> int:
        """How far apart rows of K + R columns lie: whole lines of the cache, without which a product is 2% slower."""
        return -(-(self.K + self.R) // 64) * 64 if self.R else self.K

    @property
    def elements(self) -> int:
        return self.N * self.stride

    def room(self, buffer: torch.Tensor) -> torch.Tensor:
        """Where in `buffer` the weight lies when it is wide, [N, K + R]."""
        return buffer[: self.elements].view(self.N, self.stride)[:, : self.K + self.R]

    def expand(self, wide: torch.Tensor) -> torch.Tensor:
        """Writes the codes there in the dtype of `wide`, and returns it; the adapter's columns are `fold`'s."""
        state = getattr(self.module.weight, "quant_state", None)
        if state is None:
            expand_kernel.widen(self.module.weight.data, None, wide[:, : self.K])
        else:
            expand_kernel.widen_nf4(self.module.weight.data, state, wide[:, : self.K])
        return wide

    def fold(self, to: torch.Tensor) -> None:
        """Writes the adapter's B as it is now, so that the codes' scale gives it back, to a view [N, R]."""
        if self.lora is not None:
            block_kernel.fold(self.lora.B_NR, self.scale_N, self.lora.scaling, to)


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
        # a row of zeros: its codes are zero at any scale, and the adapter's columns are divided by it
        scale_N[scale_N == 0] = 1
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


def prepare(linears: Sequence[Frozen], T: int, again: bool) -> None:
    """Has the kernels of a block's products with stored codes on T tokens compiled side by side; `again`: those too
    that make what was not saved."""
    if not any(linear.stored_forward or linear.stored_backward for linear in linears):
        return
    from florilegium.fast.hopper.int8_matmul import Variant, compile_soon

    qkv, dense, up, down = linears
    ways = [
        (qkv, Variant(False, R=qkv.R)),
        (dense, Variant(False)),
        (up, Variant(False, 1, down.form)),
        (down, Variant(False)),
    ]
    ways += [(up, Variant(False, 3))] if again else []
    ways += [(qkv, Variant(True)), (dense, Variant(True)), (up, Variant(True)), (down, Variant(True, 2))]
    for linear, variant in ways:
        if linear.stored_backward if variant.BACK else linear.stored_forward:
            compile_soon(variant, T, linear.N, linear.K, linear.scale_N.device)


class Products:
    """The products of one walk. `buffer` takes one weight at a time, made wide. `int8_matmul.py` is imported where it
    is used: it needs CUDA's compiler."""

    def __init__(self, buffer: torch.Tensor) -> None:
        self.buffer = buffer
        # B as it is in this walk, [N, R], by a linear's id: where no wide weight holds it
        self.adapters: dict[int, torch.Tensor] = {}
        self.home = False  # on the road home the copies hold the adapter's B already

    def forward(self, linear: Frozen, x: torch.Tensor) -> torch.Tensor:
        """x [T, K + R], in the order of `linear.form`, to [T, N] without scale and bias."""
        if linear.stored_forward:
            from florilegium.fast.hopper import int8_matmul as wgmma

            return wgmma.forward(x, linear.module.weight.data, self._adapter(linear, x) if linear.lora else None)
        return torch.mm(x, self._wide(linear).T)

    def forward_gelu(self, up: Frozen, down: Frozen, x_TK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What GELU's gradient needs of the raw product with `up`, and its GELU in the order that `down` wants. Where
        GELU rides along with stored codes that is its slope; a kernel of its own would move half as much again to write
        this too, so elsewhere it is the raw product."""
        if up.stored_forward:
            from florilegium.fast.hopper import int8_matmul as wgmma

            return wgmma.forward_gelu(x_TK, up.module.weight.data, up.scale_N, up.bias_N, down.form)
        raw = self.forward(up, x_TK)
        return raw, block_kernel.gelu(raw, up.scale_N, up.bias_N)

    def gelu_again(self, up: Frozen, x_TK: torch.Tensor) -> torch.Tensor:
        """The first of `forward_gelu`."""
        if up.stored_forward:
            from florilegium.fast.hopper import int8_matmul as wgmma

            return wgmma.forward_slope(x_TK, up.module.weight.data, up.scale_N, up.bias_N)
        return self.forward(up, x_TK)

    def backward_gelu(self, up: Frozen, down: Frozen, y_TW: torch.Tensor, kept_TF: torch.Tensor) -> torch.Tensor:
        """The gradient of the raw product with `up`, from that of `down`'s and what `forward_gelu` kept. Both weights
        are read as they are stored, or neither is (`block_stack.py`)."""
        if down.stored_backward:
            from florilegium.fast.hopper import int8_matmul as wgmma

            return wgmma.backward_gelu(y_TW, down.module.weight.data, kept_TF)
        above, _ = self.backward(down, y_TW)
        block_kernel.gelu_grad(kept_TF, up.scale_N, up.bias_N, above)
        return above

    def backward(self, linear: Frozen, y_TN: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The gradient of x, [T, K] (its rows may lie further apart), and of the adapter's x A^T [T, rank]."""
        if linear.stored_backward:
            from florilegium.fast.hopper import int8_matmul as wgmma

            return wgmma.backward(y_TN, linear.module.weight.data), self.thin_grad(linear, y_TN)
        above = y_TN.new_empty(len(y_TN), linear.stride)[:, : linear.K + linear.R]
        torch.mm(y_TN, self._wide(linear), out=above)
        return above[:, : linear.K], above[:, linear.K : linear.K + len(linear.lora.A_RK)] if linear.lora else None

    def thin_grad(self, linear: Frozen, y_TN: torch.Tensor) -> torch.Tensor | None:
        """The gradient of the adapter's x A^T alone."""
        if linear.lora is None:
            return None
        return adapter_kernel.thin_grad(y_TN, self._adapter(linear, y_TN), len(linear.lora.A_RK))

    def _wide(self, linear: Frozen) -> torch.Tensor:
        wide = linear.copy if linear.copy is not None else linear.expand(linear.room(self.buffer))
        if linear.copy is None or not self.home:
            linear.fold(wide[:, linear.K :])
        return wide

    def _adapter(self, linear: Frozen, like: torch.Tensor) -> torch.Tensor:
        if id(linear) not in self.adapters:
            self.adapters[id(linear)] = like.new_empty(linear.N, linear.R)
            linear.fold(self.adapters[id(linear)])
        return self.adapters[id(linear)]
