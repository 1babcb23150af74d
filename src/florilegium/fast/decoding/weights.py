"""BLOOM's blocks as the decoder reads them: frozen linears as they are stored.

8     int8, a scale a row                     weight[n, k] = stored[n, k] * scale[n]
4     NF4, a block scale for 64 of them       weight[n, k] = table[stored[n, k]] * block_scales[k // 64, n]
16    bfloat16

bitsandbytes may store the block scales as codes too (double quantisation): they are dequantised here, 4 bytes for 64
weights, and transposed so that the rows of a tile lie side by side."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from florilegium.fast.decoding.stored_weight import StoredWeight, split_of
from florilegium.fast.int8_head import int8_rows
from florilegium.fast.modules import Block, Bloom, Linear, QuantState, linears, row_absmax
from florilegium.fast.support import shared_unsupported_reason


@dataclass(frozen=True)
class DecoderBlock:
    """One BloomBlock without its adapter (`adapters.py`)."""

    norm1: torch.nn.LayerNorm
    qkv: StoredWeight
    dense: StoredWeight
    norm2: torch.nn.LayerNorm
    up: StoredWeight
    down: StoredWeight


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
    # pointers that a kernel of these bits does not follow
    ones = torch.ones(1, dtype=torch.float32, device=weight.device)
    bias_N = module.bias if module.bias is not None else torch.zeros(N, device=weight.device, dtype=torch.bfloat16)
    bits = _bits(module)
    split = split_of(N, K)
    # A view in words of 32 bits: the kernels load and unpack a word at a time.
    if bits == 4:
        stored = weight.data.view(-1).view(torch.int32)  # eight at a time
        nf4 = (weight.quant_state.code, _block_scales(weight.quant_state, N, K))
        return StoredWeight(
            stored, torch.ones(N, dtype=torch.float32, device=weight.device), bias_N, N, K, bits, nf4, split
        )
    if bits == 8:
        stored = weight.CB if weight.CB is not None else weight.data
        stored = stored.view(torch.int32)  # four at a time
        return StoredWeight(stored, row_absmax(module).float() / 127, bias_N, N, K, bits, (ones, ones), split)
    return StoredWeight(
        weight.detach(),
        torch.ones(N, dtype=torch.float32, device=weight.device),
        bias_N,
        N,
        K,
        bits,
        (ones, ones),
        split,
    )


def stored_head(head_VW: torch.Tensor, *, int8: bool) -> StoredWeight:
    """The head as it is, in 16 bits, or a copy of it in int8. Unsplit: a vocabulary has tiles enough for all
    multiprocessors."""
    ones = torch.ones(1, dtype=torch.float32, device=head_VW.device)
    V, W = head_VW.shape
    if not int8:
        return StoredWeight(head_VW, ones, ones, V, W, 16, (ones, ones), 1)
    int8_VW, scale_V = int8_rows(head_VW)
    return StoredWeight(int8_VW.view(torch.int32), scale_V, ones, V, W, 8, (ones, ones), 1)


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


def decoder_block(layer: Block) -> DecoderBlock:
    """A BloomBlock without an `unsupported_reason`."""
    qkv, dense, up, down = (stored_weight(module) for module in linears(layer))
    return DecoderBlock(layer.input_layernorm, qkv, dense, layer.post_attention_layernorm, up, down)
