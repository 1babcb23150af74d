"""One block of a Llama or a Qwen2 for one new token a row, in two parts: what comes before attention and what after.

Qwen2 is a Llama with a bias on query, key and value.

    B rows   D hidden size   H heads   E head size
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F


def rms_norm(hidden_BD: torch.Tensor, weight_D: torch.Tensor, eps: float) -> torch.Tensor:
    wide_BD = hidden_BD.float()
    return (wide_BD * torch.rsqrt(wide_BD.pow(2).mean(-1, keepdim=True) + eps)).to(hidden_BD.dtype) * weight_D


def rotate(heads_BHE: torch.Tensor, cos_BE: torch.Tensor, sin_BE: torch.Tensor) -> torch.Tensor:
    wide_BHE = heads_BHE.float()
    first, second = wide_BHE.chunk(2, -1)
    turned_BHE = torch.cat((-second, first), -1)
    return (wide_BHE * cos_BE[:, None] + turned_BHE * sin_BE[:, None]).to(heads_BHE.dtype)


def before_attention(
    hidden_BD: torch.Tensor, norm_D: torch.Tensor, qkv: torch.Tensor, qkv_bias: torch.Tensor | None, cos_BE: torch.Tensor,
    sin_BE: torch.Tensor, heads: int, key_heads: int, eps: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Query, key and value of the new token, turned to its position."""
    B, E = hidden_BD.shape[0], cos_BE.shape[-1]
    mixed = F.linear(rms_norm(hidden_BD, norm_D, eps), qkv, qkv_bias).view(B, heads + 2 * key_heads, E)
    query, key, value = torch.split(mixed, [heads, key_heads, key_heads], 1)
    return rotate(query, cos_BE, sin_BE).contiguous(), rotate(key, cos_BE, sin_BE).contiguous(), value.contiguous()


def after_attention(
    hidden_BD: torch.Tensor, mix_BD: torch.Tensor, output: torch.Tensor, norm_D: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor,
    eps: float,
) -> torch.Tensor:  # fmt: skip
    """The rest of the block."""
    hidden_BD = hidden_BD + F.linear(mix_BD, output)
    gate, up = F.linear(rms_norm(hidden_BD, norm_D, eps), gate_up).chunk(2, -1)
    return hidden_BD + F.linear(F.silu(gate) * up, down)


def block_weights(layer: Any) -> dict[str, Any]:
    """A layer's matrices, those that read the same input in one."""
    attention, mlp = layer.self_attn, layer.mlp
    biases = [projection.bias for projection in (attention.q_proj, attention.k_proj, attention.v_proj)]
    return {
        "qkv_bias": None if biases[0] is None else torch.cat(biases).detach(),
        "norm": layer.input_layernorm.weight.detach(),
        "qkv": torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]).detach(),
        "output": attention.o_proj.weight.detach(),
        "norm_mlp": layer.post_attention_layernorm.weight.detach(),
        "gate_up": torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]).detach(),
        "down": mlp.down_proj.weight.detach(),
    }
