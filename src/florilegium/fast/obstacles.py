"""What keeps a BloomModel from the kernels that walk its blocks themselves, training (`trunk.py`) or writing (`stored.py`).

They know LoRA on `query_key_value` and nothing else that an adapter may do: the rest they would pass over in silence, so it is refused.
"""

from __future__ import annotations

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
