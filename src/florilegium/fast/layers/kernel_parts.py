"""The layers' parts on a GPU: Triton's kernels, most of them those of BLOOM's training. No mask of a dropout is kept: the
kernels draw it again."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F

from florilegium.fast.dequantize_kernel import dequantize_int8, dequantize_nf4
from florilegium.fast.layers.attention_kernels import DocumentAttention
from florilegium.fast.layers.gated_kernel import Gated
from florilegium.fast.layers.packed_rows import PackedRows
from florilegium.fast.modules import Linear, LoraLayer, row_absmax
from florilegium.fast.training.lora_grad_kernel import add_lora_input_grad, lora_gradients
from florilegium.fast.training.lora_kernel import MAX_RANK, down_projection, down_projection_grad
from florilegium.reference import Dropout

MULTIPLE = 32  # of inputs and outputs, where there is an adapter: its kernels read so many at a time


class KernelParts:
    attention_name = "florilegium_documents"
    widest_head = 128  # what a tile of attention holds in registers
    takes_windows = False
    multiple = 64

    def linear_unsupported(self, layer: LoraLayer) -> str:
        base = layer.base_layer
        if layer.r[layer.active_adapters[0]] > MAX_RANK:
            return f"the adapter has a rank over {MAX_RANK}"
        if base.in_features % MULTIPLE or base.out_features % MULTIPLE:
            return f"its sides are not multiples of {MULTIPLE}"
        state = getattr(base.weight, "quant_state", None)
        # a group of weights with one scale must not lie across two rows
        return "its 4-bit groups cross its rows" if state is not None and base.in_features % state.blocksize else ""

    def product(self, x_TK: torch.Tensor, linear: Linear, buffer: torch.Tensor) -> torch.Tensor:
        # the weight is read at once: the next linear's is dequantised over it
        bias, weight = linear.bias, _weight(linear, buffer)
        return torch.mm(x_TK, weight.T) if bias is None else torch.addmm(bias.to(x_TK.dtype), x_TK, weight.T)

    def product_grad(self, grad_TN: torch.Tensor, linear: Linear, buffer: torch.Tensor) -> torch.Tensor:
        # dequantised a second time: kept, all layers' weights would lie in 16 bits at once
        return torch.mm(grad_TN, _weight(linear, buffer))

    def kept(self, dropout: Dropout | None, width: int) -> None:
        return None

    def down_projection(
        self, x_TK: torch.Tensor, a_RK: torch.Tensor, columns: int, dropout: Dropout | None, kept: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        # written whole by the kernel, zeros and all
        beside = x_TK.new_empty(len(x_TK), columns)
        return down_projection(x_TK, a_RK, beside, dropout=dropout), beside

    def down_projection_grad(self, grad_TN: torch.Tensor, b_NR: torch.Tensor, rank: int) -> torch.Tensor:
        return down_projection_grad(grad_TN, b_NR, rank)

    def lora_gradients(
        self, x_TK: torch.Tensor, down_grad: torch.Tensor, grad_TN: torch.Tensor, down: torch.Tensor, rescale_N: torch.Tensor,
        dropout: Dropout | None, kept: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        return lora_gradients(x_TK, down_grad, grad_TN, down, rescale_N, dropout=dropout)

    def add_input_grad(
        self, grad_TK: torch.Tensor, down_grad: torch.Tensor, a_RK: torch.Tensor, dropout: Dropout | None, kept: torch.Tensor | None
    ) -> None:  # fmt: skip
        add_lora_input_grad(grad_TK, down_grad, a_RK, dropout=dropout)

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, epsilon: float | None) -> torch.Tensor:
        return F.rms_norm(x, weight.shape, weight, epsilon)

    def gate(self, gate: torch.Tensor, up: torch.Tensor, act: int) -> torch.Tensor:
        return cast(torch.Tensor, cast(Any, Gated.apply)(gate, up, act))

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: PackedRows, window: int | None
    ) -> torch.Tensor:
        assert window is None, "a document would read beyond it"
        return cast(torch.Tensor, cast(Any, DocumentAttention.apply)(q, k, v, rows))


def _weight(linear: Linear, buffer: torch.Tensor) -> torch.Tensor:
    """[N, K] in the dtype of `buffer`, in which it lies where it is quantised."""
    N, K, weight = linear.out_features, linear.in_features, linear.weight
    state = getattr(weight, "quant_state", None)
    if state is None and weight.dtype != torch.int8:
        return cast(torch.Tensor, weight)
    out = buffer[: N * K].view(N, K)
    if state is not None:
        dequantize_nf4(weight.data, state, out)
    else:
        dequantize_int8(weight.data, row_absmax(linear), out)
    return out


KERNELS = KernelParts()
