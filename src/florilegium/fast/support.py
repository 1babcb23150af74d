"""What keeps a BloomModel from the kernels that run its blocks themselves, in training (`block_stack.py`) or decoding
(`weights.py`).

They know LoRA on the linears of a block and nothing else that an adapter may do: the rest they would pass over in
silence, so it is refused. Here too: what keeps training's matmuls from reading int8 weights as they are stored
(`int8_matmul.py`), which is slower without and no refusal."""

from __future__ import annotations

import functools
import importlib
from typing import cast

import torch

from florilegium.fast.card import card_of, no_bfloat16
from florilegium.fast.modules import Block, Bloom, Linear, LoraLayer, blocks_of, linears

LINEARS = (".query_key_value", ".dense", ".dense_h_to_4h", ".dense_4h_to_h")  # of a BloomBlock


def card_unsupported_reason(device: torch.device, compute: torch.dtype) -> str:
    """Why kernels that compute in bfloat16 cannot run there, or an empty string."""
    if device.type != "cuda":
        return "its kernels need CUDA"
    if reason := no_bfloat16(device):
        return reason
    if compute != torch.bfloat16:
        return "its kernels compute in bfloat16"
    return ""


def shared_unsupported_reason(bloom: Bloom, device: torch.device, compute: torch.dtype) -> str:
    """Why neither can take this model, or an empty string."""
    if reason := card_unsupported_reason(device, compute):
        return reason
    if any(layer.apply_residual_connection_post_layernorm for layer in bloom.h):
        return "this BLOOM takes its residual after the layer norm"
    if bloom.embed_dim // bloom.num_heads > 128:  # what a tile of attention holds in registers
        return "the model's heads are wider than 128"
    if bloom.embed_dim % 64:  # the column orders move 64 at a time (`unpack_kernel.py`)
        return "the model's width is not a multiple of 64"
    for name, module in bloom.named_modules():
        if hasattr(module, "modules_to_save"):
            return "the adapter trains whole modules"
        # by name: a linear outside the blocks is not in a block's list, and its adapter would be passed over
        if hasattr(module, "base_layer") and not name.endswith(LINEARS):
            return "it supports LoRA on the linears of blocks only"
        if hasattr(module, "base_layer") and not _is_plain_lora(cast(LoraLayer, module)):
            return "the adapter is not plain LoRA"
    return ""


def _is_plain_lora(layer: LoraLayer) -> bool:
    # A variant (DoRA, say) or a bias of B would change the function; two adapters at once are a sum of two products.
    one = len(layer.active_adapters) == 1 and not layer.merged and not getattr(layer, "lora_variant", None)
    return one and layer.lora_B[layer.active_adapters[0]].bias is None


# a weight with fewer numbers (bloom-560m's, bloom-1b1's) gives few tiles at a time, and dequantising it is faster
MIN_INT8_ELEMENTS = 2048**2


def supports_int8_matmul(layer: Block) -> bool:
    """Whether a BloomBlock's matmuls read its int8 weights as they are stored."""
    return not any(int8_matmul_unsupported_reason(module) for module in linears(layer))


def describe_int8_path(bloom: Bloom, held: range | None = None) -> str:
    """How a Hopper GPU's matmuls read the int8 weights of these blocks, for the run's first lines; elsewhere, or of other
    bases, an empty string."""
    modules = [module for layer in blocks_of(bloom, held) for module in linears(layer)]
    found = [int8_matmul_unsupported_reason(module) for module in modules]
    if not any(found):
        return "int8 matmul without dequantisation"
    missing = _compiler_unsupported_reason() if is_hopper(modules[0].weight.device) else ""
    if missing and missing in found:
        return f"int8 weights are dequantised for every matmul, which is slower: {missing}"
    return ""


def int8_matmul_unsupported_reason(module: Linear) -> str:
    """Why matmuls do not read the weight of one of bitsandbytes' linears as it is stored, or an empty string."""
    N, K = module.out_features, module.in_features
    if getattr(module.weight, "quant_state", None) is not None:
        return "it is not int8"
    if N % 128 or K % 128:  # the kernel has no tiles of other sizes
        return "its sides are not multiples of 128"
    if N * K < MIN_INT8_ELEMENTS:
        return "the weight is too small"
    if not is_hopper(module.weight.device):
        return "it requires a Hopper GPU"
    return _compiler_unsupported_reason()


def is_hopper(device: torch.device) -> bool:
    return device.type == "cuda" and card_of(device).is_hopper


@functools.cache
def _compiler_unsupported_reason() -> str:
    try:
        return str(importlib.import_module("florilegium.fast.hopper.nvrtc").unsupported_reason())
    except ImportError:
        return "cuda-bindings is not installed (pip install cuda-bindings)"
