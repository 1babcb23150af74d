"""What keeps a BloomModel from the kernels that walk its blocks themselves, training (`block_stack.py`) or writing
(`weights.py`).

They know LoRA on `query_key_value` and nothing else that an adapter may do: the rest they would pass over in silence,
so it is refused. Here too: what keeps training's products from reading int8 weights as they are stored
(`int8_matmul.py`), which is slower without and no refusal."""

from __future__ import annotations

import functools
import importlib
from typing import Any

import torch


def linears(layer: Any) -> tuple[Any, Any, Any, Any]:
    """The four linears of a BloomBlock as the base has them, without the adapter."""
    qkv = layer.self_attention.query_key_value
    return getattr(qkv, "base_layer", qkv), layer.self_attention.dense, layer.mlp.dense_h_to_4h, layer.mlp.dense_4h_to_h


def common_obstacle(bloom: Any, device: torch.device, compute: torch.dtype) -> str:
    """Why neither can take this model, or an empty string."""
    if device.type != "cuda":
        return "its kernels are for CUDA"
    if compute != torch.bfloat16:
        return "it computes in bfloat16"
    if any(layer.apply_residual_connection_post_layernorm for layer in bloom.h):
        return "this BLOOM has another residual"
    if bloom.embed_dim // bloom.num_heads > 128:
        return "its heads are wider than 128"
    if bloom.embed_dim % 64:
        return "its width is no multiple of 64"
    for name, module in bloom.named_modules():
        if hasattr(module, "modules_to_save"):
            return "its adapter holds whole modules"
        if hasattr(module, "base_layer") and not name.endswith(".query_key_value"):
            return "it takes LoRA on query_key_value alone"
        if hasattr(module, "base_layer") and not _plain_lora(module):
            return "its adapter is no plain LoRA"
    return ""


def _plain_lora(qkv: Any) -> bool:
    one = len(qkv.active_adapters) == 1 and not qkv.merged and not getattr(qkv, "lora_variant", None)
    return one and qkv.lora_B[qkv.active_adapters[0]].bias is None


# a weight with fewer numbers (bloom-560m's, bloom-1b1's) gives few tiles at a time, and making it wide is faster
SMALLEST = 2048**2


def reads_codes(layer: Any) -> bool:
    """Whether a BloomBlock's products read its weights as they are stored."""
    return not any(stored_obstacle(module) for module in linears(layer))


def say_products(bloom: Any) -> str:
    """What a Hopper GPU's products read of an int8 base, for the run's first lines; elsewhere, or of other bases, an
    empty string."""
    found = [stored_obstacle(module) for layer in bloom.h for module in linears(layer)]
    if not any(found):
        return "int8 multiplied as it is stored"
    missing = _compiler_obstacle() if is_hopper(bloom.word_embeddings.weight.device) else ""
    if missing and missing in found:
        return f"int8 made wide for each product, which is slower: {missing}"
    return ""


def stored_obstacle(module: Any) -> str:
    """Why products do not read the weight of one of bitsandbytes' linears as it is stored, or an empty string."""
    N, K = module.out_features, module.in_features
    if getattr(module.weight, "quant_state", None) is not None:
        return "it is no int8"
    if N % 128 or K % 128:
        return "its sides are no multiples of 128"
    if N * K < SMALLEST:
        return "it is small"
    if not is_hopper(module.weight.device):
        return "this takes the matrix unit of a Hopper GPU"
    return _compiler_obstacle()


def is_hopper(device: torch.device) -> bool:
    return device.type == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability(device)[0] == 9


@functools.cache
def _compiler_obstacle() -> str:
    try:
        return str(importlib.import_module("florilegium.fast.hopper.nvrtc").obstacle())
    except ImportError:
        return "there is no cuda-bindings (pip install cuda-bindings)"
