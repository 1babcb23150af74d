"""A frozen quantised linear as the block stack reads it: bitsandbytes' weight, with LoRA beside it or without.

    int8   [N, K], exact in bfloat16                 y = (x weight^T) * scale + bias
    NF4    4 bits a weight, a scale for each 64      y = (x weight^T) + bias           (scale is 1)

A linear with LoRA is R columns wider: beside the weight lie those of B * scaling / scale, beside its input x A^T, so
that the adapter costs no product of its own (but for its gradients). `matmuls.py` multiplies. Shapes: T tokens, N
outputs, K inputs, R the adapter's rank rounded up to 8."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from florilegium.fast import dequantize_kernel
from florilegium.fast.modules import Linear, Lora, LoraLayer, base_linear, lora_of, row_absmax
from florilegium.fast.training import lora_kernel
from florilegium.fast.unpack_kernel import NATURAL_ORDER, PAIR_ORDER


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
    stream: int = 0  # of its dropout's random numbers

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

    def new_input(self, like: torch.Tensor) -> torch.Tensor:
        """Room for an input [T, K + R] of as many rows."""
        return like.new_empty(len(like), self.row_stride)[:, : self.K + self.R]

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
        scale_N = torch.ones(N, dtype=torch.float32, device=weight.device)
    else:
        scale_N = row_absmax(module).float() / 127
        # a row of zeros: its codes are zero at any scale, and the adapter's columns are divided by it
        scale_N[scale_N == 0] = 1
    bias_N = module.bias if module.bias is not None else torch.zeros(N, device=weight.device, dtype=torch.bfloat16)
    lora = lora_of(layer)
    # the matrix unit's copies want rows of the adapter at multiples of 16 bytes, 8 numbers
    R = -(-lora.A_RK.shape[0] // 8) * 8 if lora else 0
    return QuantizedLinear(module, scale_N, bias_N, N, K, R, lora)
