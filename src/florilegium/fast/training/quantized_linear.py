"""A frozen quantised linear as the block stack reads it: bitsandbytes' weight, and the matmuls with it.

    int8   [N, K], exact in bfloat16                 y = (x weight^T) * scale + bias
    NF4    4 bits a weight, a scale for each 64      y = (x weight^T) + bias           (scale is 1)

There are three ways to a product. A Hopper GPU reads large int8 weights as they are stored (`int8_matmul.py`).
Elsewhere the matmul reads bfloat16, so the weight is dequantised for one product and forgotten: 6 ms a pass over
bloom-7b1 if memory does nothing else. A weight that has a `bf16_copy` (where the card has room: `ActivationPlan`) is
dequantised once for the whole run; it is a cache, the base stays quantised.

A linear with LoRA is R columns wider: beside the weight lie those of B * scaling / scale, beside its input x A^T, so
that the adapter costs no product of its own (but for its gradient where int8 is read as it is stored). Shapes: T
tokens, N outputs, K inputs, R the adapter's rank rounded up to 8."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from florilegium.fast import dequantize_kernel
from florilegium.fast.modules import Linear, LoraLayer, base_linear, lora_layer
from florilegium.fast.training import gelu_kernel, lora_kernel
from florilegium.fast.unpack_kernel import NATURAL_ORDER, PAIR_ORDER


@dataclass(frozen=True)
class Lora:
    """PEFT's LoRA on a linear. `A_RK` and `B_NR` are the live float32 parameters."""

    A_RK: torch.Tensor
    B_NR: torch.Tensor
    scaling: float
    dropout: float


@dataclass
class QuantizedLinear:
    """One quantised linear of a block, `module` being bitsandbytes' own."""

    module: Linear
    scale_N: torch.Tensor
    bias_N: torch.Tensor
    N: int
    K: int
    R: int = 0
    lora: Lora | None = None
    bf16_copy: torch.Tensor | None = None
    int8_forward: bool = False  # whether the matmul reads int8 as it is stored
    int8_backward: bool = False

    def __post_init__(self) -> None:
        scaling = self.lora.scaling if self.lora else 1.0
        self.lora_b_rescale_N = scaling / self.scale_N  # what `write_lora_b` multiplied B by

    @property
    def column_order(self) -> int:
        """The order of columns in which the matmul wants its input (`unpack_kernel.mma_column_order`)."""
        return PAIR_ORDER if self.int8_forward else NATURAL_ORDER

    @property
    def row_stride(self) -> int:
        """How far apart rows of K + R columns lie: whole lines of the cache, without which a product is 2% slower."""
        return -(-(self.K + self.R) // 64) * 64 if self.R else self.K

    @property
    def num_elements(self) -> int:
        return self.N * self.row_stride

    def weight_view(self, buffer: torch.Tensor) -> torch.Tensor:
        """Where in `buffer` the dequantised weight lies, [N, K + R]."""
        return buffer[: self.num_elements].view(self.N, self.row_stride)[:, : self.K + self.R]

    def dequantize_into(self, weight: torch.Tensor) -> torch.Tensor:
        """Writes the weight there in its dtype, without the int8 scale, and returns it; the adapter's columns are
        `write_lora_b`'s."""
        state = getattr(self.module.weight, "quant_state", None)
        if state is None:
            # No scale: whole numbers are exact in bfloat16, and the scale is applied to the product in float32.
            dequantize_kernel.dequantize_int8(self.module.weight.data, None, weight[:, : self.K])
        else:
            dequantize_kernel.dequantize_nf4(self.module.weight.data, state, weight[:, : self.K])
        return weight

    def write_lora_b(self, to: torch.Tensor) -> None:
        """Writes the adapter's B as it is now, so that the int8 scale gives it back, to a view [N, R]."""
        if self.lora is not None:
            lora_kernel.write_lora_b(self.lora.B_NR, self.scale_N, self.lora.scaling, to)


def quantized_linear(layer: Linear | LoraLayer) -> QuantizedLinear:
    """A linear of BLOOM, with or without PEFT's LoRA around it."""
    module = base_linear(layer)
    weight = module.weight
    N, K = module.out_features, module.in_features
    if hasattr(weight, "quant_state"):
        scale_N = torch.ones(N, device=weight.device)
    else:
        # bitsandbytes moves SCB from the parameter to the module's state at the first forward of its own
        row_absmax = weight.SCB if weight.SCB is not None else module.state.SCB
        scale_N = row_absmax.float() / 127
        # a row of zeros: its codes are zero at any scale, and the adapter's columns are divided by it
        scale_N[scale_N == 0] = 1
    bias_N = module.bias if module.bias is not None else torch.zeros(N, device=weight.device, dtype=torch.bfloat16)
    lora = lora_of(layer)
    # the matrix unit's copies want rows of the adapter at multiples of 16 bytes, 8 numbers
    R = -(-lora.A_RK.shape[0] // 8) * 8 if lora else 0
    return QuantizedLinear(module, scale_N, bias_N, N, K, R, lora)


def lora_of(layer: Linear | LoraLayer) -> Lora | None:
    """PEFT's LoRA on this layer, or None where there is none or it is disabled (`support.py` refused all other)."""
    found = lora_layer(layer)
    if found is None or found.disable_adapters:
        return None
    (name,) = found.active_adapters
    dropout = float(getattr(found.lora_dropout[name], "p", 0.0))  # PEFT has an Identity there for 0
    return Lora(found.lora_A[name].weight, found.lora_B[name].weight, float(found.scaling[name]), dropout)


def compile_int8_matmuls(linears: Sequence[QuantizedLinear], T: int, *, recompute: bool) -> None:
    """Has the kernels of a block's int8 matmuls on T tokens compiled side by side; `recompute`: those too that make
    what was not saved."""
    if not any(linear.int8_forward or linear.int8_backward for linear in linears):
        return
    from florilegium.fast.hopper.int8_matmul import Variant, compile_in_background

    qkv, dense, up, down = linears
    forward = [
        (qkv, Variant.forward(R=qkv.R)),
        (dense, Variant.forward()),
        (up, Variant.forward_gelu(down.column_order)),
        (down, Variant.forward()),
    ]
    # To recompute, GELU's slope will do: its value went into `down`, which is not run again.
    forward += [(up, Variant.forward_slope())] if recompute else []
    backward = [
        (qkv, Variant.backward()),
        (dense, Variant.backward()),
        (up, Variant.backward()),
        (down, Variant.backward_gelu()),
    ]
    for linear, variant in forward + backward:
        if linear.int8_backward if variant.BACK else linear.int8_forward:
            compile_in_background(variant, T, linear.N, linear.K, linear.scale_N.device)


class Matmuls:
    """The matmuls of one pass through the blocks. `buffer` takes one weight at a time, dequantised. `int8_matmul.py` is
    imported where it is used: it needs CUDA's compiler."""

    def __init__(self, buffer: torch.Tensor) -> None:
        self.buffer = buffer
        # B as it is in this pass, [N, R], by a linear's id: where no dequantised weight holds it
        self.lora_b: dict[int, torch.Tensor] = {}
        self.in_backward = False  # then the bf16 copies hold the adapter's B already

    def forward(self, linear: QuantizedLinear, x: torch.Tensor) -> torch.Tensor:
        """x [T, K + R], in `linear.column_order`, to [T, N] without scale and bias."""
        if linear.int8_forward:
            from florilegium.fast.hopper import int8_matmul

            # The stored weight has no columns for B, so B goes in beside it.
            lora_b = self._lora_b(linear, x) if linear.lora else None
            return int8_matmul.forward(x, linear.module.weight.data, lora_b)
        # One product for base and adapter: [x, x A^T] [weight, B]^T.
        return torch.mm(x, self._bf16_weight(linear).T)

    def forward_gelu(
        self, up: QuantizedLinear, down: QuantizedLinear, x_TK: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What GELU's gradient needs of the raw product with `up`, and its GELU in the order that `down` wants. Where
        the int8 matmul does GELU as well that is its slope; a kernel of its own would move half as much again to write
        this too, so elsewhere it is the raw product."""
        if up.int8_forward:
            from florilegium.fast.hopper import int8_matmul

            return int8_matmul.forward_gelu(x_TK, up.module.weight.data, up.scale_N, up.bias_N, down.column_order)
        raw = self.forward(up, x_TK)
        return raw, gelu_kernel.gelu(raw, up.scale_N, up.bias_N)

    def recompute_gelu_slope_or_input(self, up: QuantizedLinear, x_TK: torch.Tensor) -> torch.Tensor:
        """The first of `forward_gelu`."""
        if up.int8_forward:
            from florilegium.fast.hopper import int8_matmul

            return int8_matmul.forward_slope(x_TK, up.module.weight.data, up.scale_N, up.bias_N)
        return self.forward(up, x_TK)

    def backward_gelu(
        self, up: QuantizedLinear, down: QuantizedLinear, grad_TW: torch.Tensor, gelu_slope_or_input_TF: torch.Tensor
    ) -> torch.Tensor:
        """The gradient of the raw product with `up`, from that of `down`'s and what `forward_gelu` kept. Both weights
        are read as they are stored, or neither is (`block_stack.py`)."""
        if down.int8_backward:
            from florilegium.fast.hopper import int8_matmul

            return int8_matmul.backward_gelu(grad_TW, down.module.weight.data, gelu_slope_or_input_TF)
        grad_out, _ = self.backward(down, grad_TW)
        # In place: nobody reads the gradient of GELU's output again.
        gelu_kernel.gelu_grad(gelu_slope_or_input_TF, up.scale_N, up.bias_N, grad_out)
        return grad_out

    def backward(self, linear: QuantizedLinear, grad_TN: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The gradient of x, [T, K] (its rows may lie further apart), and of the adapter's x A^T [T, rank]."""
        if linear.int8_backward:
            from florilegium.fast.hopper import int8_matmul

            return int8_matmul.backward(grad_TN, linear.module.weight.data), self.lora_x_at_grad(linear, grad_TN)
        # One product again: the columns beyond K are grad B, the gradient of x A^T.
        out = grad_TN.new_empty(len(grad_TN), linear.row_stride)[:, : linear.K + linear.R]
        torch.mm(grad_TN, self._bf16_weight(linear), out=out)
        return out[:, : linear.K], out[:, linear.K : linear.K + len(linear.lora.A_RK)] if linear.lora else None

    def lora_x_at_grad(self, linear: QuantizedLinear, grad_TN: torch.Tensor) -> torch.Tensor | None:
        """The gradient of the adapter's x A^T alone."""
        if linear.lora is None:
            return None
        return lora_kernel.down_projection_grad(grad_TN, self._lora_b(linear, grad_TN), len(linear.lora.A_RK))

    def _bf16_weight(self, linear: QuantizedLinear) -> torch.Tensor:
        copy = linear.bf16_copy
        weight = copy if copy is not None else linear.dequantize_into(linear.weight_view(self.buffer))
        # B changes with every optimiser step, so even a copy gets it anew, once a pass.
        if copy is None or not self.in_backward:
            linear.write_lora_b(weight[:, linear.K :])
        return weight

    def _lora_b(self, linear: QuantizedLinear, like: torch.Tensor) -> torch.Tensor:
        # Once a pass: forward and backward must read the same B, and it changes between passes.
        if id(linear) not in self.lora_b:
            self.lora_b[id(linear)] = like.new_empty(linear.N, linear.R)
            linear.write_lora_b(self.lora_b[id(linear)])
        return self.lora_b[id(linear)]
