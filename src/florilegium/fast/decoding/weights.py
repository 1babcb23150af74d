"""BLOOM's blocks as the decoder reads them: frozen linears in the form they are stored in, and beside them the adapter
in 16 bits, as it is when the decoder is made.

8     int8 codes, a scale a row             weight[n, k] = codes[n, k] * scale[n]
4     NF4 codes, a level for 64 of them     weight[n, k] = table[codes[n, k]] * levels[k // 64, n]
16    plain numbers

bitsandbytes may store the levels as codes too (double quantisation): they are made wide here, 4 bytes for 64 weights,
and turned so that the rows of a tile lie side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from florilegium.fast.decoding import matmul_kernel as product_kernel
from florilegium.fast.support import common_obstacle, linears
from florilegium.fast.training.quantized_linear import Lora, lora_of


@dataclass(frozen=True)
class Weight:
    """A frozen linear as it is stored. form: 8, 4 or 16; `nf4` is the table [16] and the levels [K / 64, N],
    float32."""

    codes: torch.Tensor
    scale_N: torch.Tensor
    bias_N: torch.Tensor
    N: int
    K: int
    form: int
    nf4: tuple[torch.Tensor, ...]
    split: int


@dataclass
class Block:
    """One BloomBlock. `a_RW` and `b_NR` are the adapter in the decoder's dtype, R its rank rounded up to a power of two
    from 16."""

    norm1: Any
    qkv: Weight
    dense: Weight
    norm2: Any
    up: Weight
    down: Weight
    lora: Lora | None
    a_RW: Any = None
    b_NR: Any = None


def _readable(module: Any) -> bool:
    """Whether the kernels read this linear of bitsandbytes or torch: all but 4-bit weights that are not NF4 in groups
    of 64."""
    state = getattr(module.weight, "quant_state", None)
    return state is None or (state.quant_type == "nf4" and state.blocksize == 64 and module.in_features % 64 == 0)


def _form(module: Any) -> int:
    weight = module.weight
    return 4 if getattr(weight, "quant_state", None) is not None else 8 if weight.dtype == torch.int8 else 16


def _levels(state: Any, N: int, K: int) -> torch.Tensor:
    """[K / 64, N]"""
    levels: torch.Tensor = state.absmax
    if state.nested:
        from bitsandbytes.functional import dequantize_blockwise

        levels = dequantize_blockwise(state.absmax, state.state2) + state.offset
    return levels.float().view(N, K // 64).T.contiguous()


def weight_of(module: Any) -> Weight:
    """A linear that is `_readable`."""
    weight = module.weight
    N, K = module.out_features, module.in_features
    ones = torch.ones(1, device=weight.device)
    bias_N = module.bias if module.bias is not None else torch.zeros(N, device=weight.device, dtype=torch.bfloat16)
    form = _form(module)
    split = product_kernel.split_of(N, K, form)
    if form == 4:
        codes = weight.data.view(-1).view(torch.int32)  # eight at a time
        nf4 = (weight.quant_state.code, _levels(weight.quant_state, N, K))
        return Weight(codes, torch.ones(N, device=weight.device), bias_N, N, K, form, nf4, split)
    if form == 8:
        scale = weight.SCB if weight.SCB is not None else module.state.SCB
        codes = weight.CB if weight.CB is not None else weight.data
        codes = codes.view(torch.int32)  # four at a time
        return Weight(codes, scale.float() / 127, bias_N, N, K, form, (ones,) * 2, split)
    return Weight(weight.detach(), torch.ones(N, device=weight.device), bias_N, N, K, form, (ones,) * 2, split)


def obstacle(bloom: Any, device: torch.device, compute: torch.dtype) -> str:
    """Why the decoder cannot read this model, or an empty string."""
    found = common_obstacle(bloom, device, compute)
    if found:
        return found
    if bloom.word_embeddings.weight.dtype != torch.bfloat16:
        return "it computes in bfloat16"
    if not all(_readable(module) for layer in bloom.h for module in linears(layer)):
        return "its 4-bit weights are not NF4 in groups of 64"
    if any(_form(layer.mlp.dense_h_to_4h) != _form(layer.mlp.dense_4h_to_h) for layer in bloom.h):
        # the one writes its rows in the order of the other's codes
        return "a block's two large weights are stored in different forms"
    return ""


def block_of(layer: Any, dtype: torch.dtype) -> Block:
    """A BloomBlock without `obstacle`."""
    first, second, third, fourth = (weight_of(module) for module in linears(layer))
    lora = lora_of(layer.self_attention.query_key_value)
    block = Block(layer.input_layernorm, first, second, layer.post_attention_layernorm, third, fourth, lora)
    if lora is not None:
        R, rank = padded_rank(lora), len(lora.A_RK)
        block.a_RW = torch.zeros(R, first.K, dtype=dtype, device=lora.A_RK.device)
        block.b_NR = torch.zeros(first.N, R, dtype=dtype, device=lora.A_RK.device)
        block.a_RW[:rank].copy_(lora.A_RK.detach())
        block.b_NR[:, :rank].copy_(lora.B_NR.detach())
    return block


def padded_rank(lora: Lora | None) -> int:
    return max(16, 1 << (lora.A_RK.shape[0] - 1).bit_length()) if lora else 0
