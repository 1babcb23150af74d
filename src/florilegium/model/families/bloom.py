"""BLOOM: the one place, beside the kernels written for it, that knows its modules by name.

    word_embeddings -> word_embeddings_layernorm -> h[0..L-1] -> ln_f -> the embedding again, as head
    h[i]: input_layernorm -> query_key_value -> attention -> dense -> + -> post_attention_layernorm
          -> dense_h_to_4h -> GELU -> dense_4h_to_h -> +

Stock BLOOM takes no `position_ids` and no document mask. Its positions are ALiBi, a bias by distance on each head's
scores, so its own modules with an attention that stays inside each document (`reference/attention.py`) compute the same
as each document alone. They may hold bitsandbytes' weights and PEFT's LoRA: they are called, never read. Shapes: B
rows, T tokens, H heads, D head dimension, W = H * D width."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import nn

from florilegium import reference
from florilegium.model.families.base import BlockLinears, BlockSizes, inner_model

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel
    from transformers.models.bloom.modeling_bloom import BloomBlock, BloomModel
    from transformers.utils.quantization_config import QuantizationConfigMixin

    from florilegium.model.families.base import AnyModel, Noise
    from florilegium.model.kernel_protocols import HostBlocks
    from florilegium.model.weight_files import WeightFiles

FUSED_QKV = "query_key_value"


def bloom_model(model: AnyModel) -> BloomModel:
    """The BloomModel inside a BloomForCausalLM, with or without PEFT around it."""
    return cast("BloomModel", inner_model(model).transformer)


class Bloom:
    model_types: tuple[str, ...] = ("bloom",)
    packs = True
    fused_linears: tuple[str, ...] = (FUSED_QKV, "dense", "dense_h_to_4h", "dense_4h_to_h")

    def backbone(self, model: AnyModel) -> nn.Module:
        return bloom_model(model)

    def blocks(self, model: AnyModel) -> Sequence[nn.Module]:
        return cast("Sequence[nn.Module]", bloom_model(model).h)

    def linears(self, block: nn.Module) -> BlockLinears:
        layer = cast("BloomBlock", block)
        attention, mlp = layer.self_attention, layer.mlp
        return BlockLinears(attention.query_key_value, attention.dense, mlp.dense_h_to_4h, mlp.dense_4h_to_h)

    def lora_targets(self, model: AnyModel) -> list[str] | str:
        return [FUSED_QKV]

    def load_quantized(
        self, files: WeightFiles, outline: PreTrainedModel, quantization: QuantizationConfigMixin, device: torch.device,
        host: HostBlocks | None = None,
    ) -> PreTrainedModel | None:  # fmt: skip
        """On a CUDA device, tensor by tensor."""
        if device.type != "cuda":
            return None
        from florilegium.model.bloom_loader import load_streamed

        return load_streamed(files, outline, quantization, device, host)

    def embed(
        self, model: AnyModel, tokens_BT: torch.Tensor, dtype: torch.dtype, noise: Noise | None = None
    ) -> torch.Tensor:
        bloom = bloom_model(model)
        hidden_BTW = bloom.word_embeddings(tokens_BT).to(dtype)
        return norm(bloom.word_embeddings_layernorm, noise(hidden_BTW) if noise else hidden_BTW)

    def apply_block(
        self, block: nn.Module, hidden_BTW: torch.Tensor, attend: reference.Attend, compute: torch.dtype
    ) -> torch.Tensor:
        layer, linears = cast("BloomBlock", block), self.linears(block)
        normed_BTW = norm(layer.input_layernorm, hidden_BTW)
        residual_BTW = normed_BTW if layer.apply_residual_connection_post_layernorm else hidden_BTW
        query, key, value = _split_heads(layer, linears.qkv(normed_BTW.to(compute)))
        context_BTW = attend(query, key, value).transpose(1, 2).reshape(hidden_BTW.shape)
        hidden_BTW = residual_BTW + _dropped(layer, linears.attention_out(context_BTW))
        normed_BTW = norm(layer.post_attention_layernorm, hidden_BTW)
        residual_BTW = normed_BTW if layer.apply_residual_connection_post_layernorm else hidden_BTW
        # BLOOM's GELU is the tanh form, written out in its code with a backward pass of its own; this is the same
        # function, fused.
        active_BTF = F.gelu(linears.mlp_up(normed_BTW.to(compute)), approximate="tanh")
        return residual_BTW + _dropped(layer, linears.mlp_down(active_BTF))

    def final_norm(self, model: AnyModel, hidden_BTW: torch.Tensor) -> torch.Tensor:
        return norm(bloom_model(model).ln_f, hidden_BTW)

    def alibi_slopes(self, model: AnyModel, device: torch.device) -> torch.Tensor:
        return reference.alibi_slopes(bloom_model(model).num_heads, device)

    def block_sizes(self, config: PretrainedConfig, adapter_on: Collection[str]) -> BlockSizes:
        return block_sizes(config.hidden_size, config.num_attention_heads, adapter_on)


def block_sizes(width: int, heads: int, adapter_on: Collection[str] = (FUSED_QKV,)) -> BlockSizes:
    """Four linears of 3 W², W², 4 W² and 4 W². Of a token the fused blocks keep, in 2 bytes a number, the input (W), the
    residual after attention (W), query, key and value (3 W), the context (W), and what GELU's gradient needs (4 W); in
    4 bytes a log-sum-exp for each head. LoRA on the last linear reads GELU's output too (4 W), and beside its input and
    the context's lie the adapter's columns, in whole lines of 64. What was not kept is made again, with 4 W beside it that a
    card showed (docs/kernels/memory-plan.md)."""
    shapes = {FUSED_QKV: (3, 1), "dense": (1, 1), "dense_h_to_4h": (4, 1), "dense_4h_to_h": (1, 4)}
    outputs, inputs = (sum(width * shapes[name][side] for name in adapter_on if name in shapes) for side in (0, 1))
    beside = 128 * sum(name in adapter_on for name in ("dense", "dense_4h_to_h"))
    active = 8 * width if "dense_4h_to_h" in adapter_on else 0
    return BlockSizes(
        weights=12 * width**2,
        largest_weight=4 * width**2,
        lora_inputs=inputs,
        lora_outputs=outputs,
        kept=20 * width + 4 * heads + active + beside,
        kept_middle=4 * width,
        kept_input=2 * width,
        at_work=30 * width,
        recomputed=24 * width + active + beside,
    )


def _split_heads(layer: BloomBlock, fused_BT3W: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Query, key and value, each [B, H, T, D]. BLOOM's fused projection holds them head by head."""
    B, T, _ = fused_BT3W.shape
    attention = layer.self_attention
    fused = fused_BT3W.view(B, T, attention.num_heads, 3, attention.head_dim)
    query, key, value = fused.permute(3, 0, 2, 1, 4)
    return query, key, value


def norm(module: nn.LayerNorm, hidden: torch.Tensor) -> torch.Tensor:
    """A LayerNorm whose stored dtype may differ from the one computed in."""
    weight, bias = module.weight.to(hidden.dtype), module.bias.to(hidden.dtype)
    return F.layer_norm(hidden, module.normalized_shape, weight, bias, module.eps)


def _dropped(layer: BloomBlock, hidden: torch.Tensor) -> torch.Tensor:
    return F.dropout(hidden, layer.hidden_dropout, layer.training) if layer.hidden_dropout else hidden


BLOOM = Bloom()
