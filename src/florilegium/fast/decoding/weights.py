"""BLOOM's blocks as the decoder reads them: frozen linears as they are stored, and beside them the adapter in 16 bits,
as it is when the decoder is made.

8     int8, a scale a row                     weight[n, k] = stored[n, k] * scale[n]
4     NF4, a block scale for 64 of them       weight[n, k] = table[stored[n, k]] * block_scales[k // 64, n]
16    bfloat16

bitsandbytes may store the block scales as codes too (double quantisation): they are dequantised here, 4 bytes for 64
weights, and transposed so that the rows of a tile lie side by side."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from florilegium.fast.decoding.matmul_kernel import StoredWeight, split_of
from florilegium.fast.modules import Block, Bloom, Linear, LoraLayer, QuantState, linears
from florilegium.fast.support import shared_unsupported_reason
from florilegium.fast.training.quantized_linear import Lora, lora_of
from florilegium.fast.unpack_kernel import in_stored_order


@dataclass(frozen=True)
class DecoderLora:
    """The adapter of a linear in the decoder's dtype, R its rank rounded up to a power of two from 16. A norm's program
    reads A as it is; else its columns lie as those of the input that it multiplies (`StoredWeight.column_order`). B holds
    the adapter's scaling, and for `dense` and `down` what undoes the int8 scale that the next norm applies."""

    a_RK: torch.Tensor
    b_NR: torch.Tensor


@dataclass(frozen=True)
class DecoderBlock:
    """One BloomBlock; `lora` of each linear, None where there is none."""

    norm1: torch.nn.LayerNorm
    qkv: StoredWeight
    dense: StoredWeight
    norm2: torch.nn.LayerNorm
    up: StoredWeight
    down: StoredWeight
    qkv_lora: DecoderLora | None = None
    dense_lora: DecoderLora | None = None
    up_lora: DecoderLora | None = None
    down_lora: DecoderLora | None = None

    @property
    def rank(self) -> int:
        """The largest of its adapters' R."""
        loras = (self.qkv_lora, self.dense_lora, self.up_lora, self.down_lora)
        return max((len(lora.a_RK) for lora in loras if lora), default=1)


def _readable(module: Linear) -> bool:
    """Whether the kernels read this linear of bitsandbytes or torch: all but 4-bit weights that are not NF4 in groups
    of 64."""
    state = getattr(module.weight, "quant_state", None)
    return state is None or (state.quant_type == "nf4" and state.blocksize == 64 and module.in_features % 64 == 0)


def _bits(module: Linear) -> int:
    weight = module.weight
    return 4 if getattr(weight, "quant_state", None) is not None else 8 if weight.dtype == torch.int8 else 16


def _block_scales(state: QuantState, N: int, K: int) -> torch.Tensor:
    """[K / 64, N], of bitsandbytes' QuantState, which is untyped."""
    scales: torch.Tensor = state.absmax
    if state.nested:
        from bitsandbytes.functional import dequantize_blockwise

        scales = dequantize_blockwise(state.absmax, state.state2) + state.offset
    # transposed: a tile of 64 columns reads one row of it, N neighbours
    return scales.float().view(N, K // 64).T.contiguous()


def stored_weight(module: Linear) -> StoredWeight:
    """A linear that is `_readable`."""
    weight = module.weight
    N, K = module.out_features, module.in_features
    ones = torch.ones(1, device=weight.device)
    bias_N = module.bias if module.bias is not None else torch.zeros(N, device=weight.device, dtype=torch.bfloat16)
    bits = _bits(module)
    split = split_of(N, K, bits)
    # A view in words of 32 bits: the kernels load and unpack a word at a time.
    if bits == 4:
        stored = weight.data.view(-1).view(torch.int32)  # eight at a time
        nf4 = (weight.quant_state.code, _block_scales(weight.quant_state, N, K))
        return StoredWeight(stored, torch.ones(N, device=weight.device), bias_N, N, K, bits, nf4, split)
    if bits == 8:
        # bitsandbytes moves both from the parameter to the module's state at the first forward of its own
        scale = weight.SCB if weight.SCB is not None else module.state.SCB
        stored = weight.CB if weight.CB is not None else weight.data
        stored = stored.view(torch.int32)  # four at a time
        return StoredWeight(stored, scale.float() / 127, bias_N, N, K, bits, (ones, ones), split)
    return StoredWeight(weight.detach(), torch.ones(N, device=weight.device), bias_N, N, K, bits, (ones, ones), split)


def unsupported_reason(bloom: Bloom, device: torch.device, compute: torch.dtype) -> str:
    """Why the decoder cannot read this model, or an empty string."""
    found = shared_unsupported_reason(bloom, device, compute)
    if found:
        return found
    if bloom.word_embeddings.weight.dtype != torch.bfloat16:
        return "its kernels compute in bfloat16"
    if not all(_readable(module) for layer in bloom.h for module in linears(layer)):
        return "the 4-bit weights are not NF4 in groups of 64"
    if any(_bits(up) != _bits(down) for _, _, up, down in map(linears, bloom.h)):
        # the one writes its rows in the order of columns that the other reads
        return "a block's two large weights are stored in different precisions"
    return ""


def decoder_block(layer: Block, dtype: torch.dtype) -> DecoderBlock:
    """A BloomBlock without an `unsupported_reason`."""
    attention, mlp = layer.self_attention, layer.mlp
    wrapped = attention.query_key_value, attention.dense, mlp.dense_h_to_4h, mlp.dense_4h_to_h
    weights = [stored_weight(module) for module in linears(layer)]
    loras = [
        decoder_lora(module, weight, dtype, after_norm=after_norm)
        for module, weight, after_norm in zip(wrapped, weights, (True, False, True, False), strict=True)
    ]
    norms = layer.input_layernorm, layer.post_attention_layernorm
    return DecoderBlock(norms[0], weights[0], weights[1], norms[1], weights[2], weights[3], *loras)


def decoder_lora(
    module: Linear | LoraLayer, weight: StoredWeight, dtype: torch.dtype, *, after_norm: bool
) -> DecoderLora | None:
    """`after_norm`: the linear reads a norm's output; else its sums go to the next norm without scale."""
    lora = lora_of(module)
    if lora is None:
        return None
    R, rank = padded_rank(lora), len(lora.A_RK)
    # zeros beyond the rank: they add nothing, and a power of two needs no mask
    a_RK = torch.zeros(R, weight.K, dtype=dtype, device=lora.A_RK.device)
    b_NR = torch.zeros(weight.N, R, dtype=dtype, device=lora.A_RK.device)
    A, B = lora.A_RK.detach(), lora.B_NR.detach() * lora.scaling
    a_RK[:rank].copy_(A if after_norm else in_stored_order(A, weight.column_order))
    # a row of zeros has the scale 0: whatever is added to its sum is lost, as it is for the base
    scale_N = torch.where(weight.scale_N == 0, 1.0, weight.scale_N)
    b_NR[:, :rank].copy_(B if after_norm else B / scale_N[:, None])
    return DecoderLora(a_RK, b_NR)


def padded_rank(lora: Lora) -> int:
    return max(16, 1 << (lora.A_RK.shape[0] - 1).bit_length())
