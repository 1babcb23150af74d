"""Model families as llama.cpp knows them: names of tensors by gguf's own map, what a config's numbers are called there,
and which weights lie in another order.

    BLOOM          query_key_value: (head, q k v) in Transformers, (q k v, head) in llama.cpp
    Llama, Mistral q_proj, k_proj: the halves that rotate together lie side by side
    Qwen2, Qwen3   as they are
    GPT-2          Conv1D weights: transposed
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from florilegium.errors import ModelError
from florilegium.export.gguf_types import import_gguf

if TYPE_CHECKING:
    from gguf import GGUFWriter

Config = Any  # a Transformers config: every family has numbers under names of its own
Order = Callable[[Config, int], torch.Tensor]  # config, number of rows -> where each row comes from


@dataclass(frozen=True)
class GgufFamily:
    """`orders` are for the output rows of the modules so called, `transposed` the modules with Conv1D weights, `skipped`
    ends of names that are no weights, `plain` ends of names that llama.cpp wants in float32."""

    architecture: str
    facts: Callable[[GGUFWriter, Config], None]
    orders: dict[str, Order]
    transposed: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    plain: tuple[str, ...] = ()

    def name(self, tensor: str, blocks: int) -> str:
        """What llama.cpp calls the tensor. Raises ModelError for one that its map lacks."""
        gguf = import_gguf()
        names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[self.architecture], blocks)
        inner = tensor.split(".", 1)[-1]  # the map has some names as the inner model's files have them
        found = names.get_name(tensor, (".weight", ".bias")) or names.get_name(inner, (".weight", ".bias"))
        if found is None:
            raise ModelError(f"llama.cpp has no place for the tensor {tensor}", "Export with --to merged instead")
        return str(found)

    def order(self, tensor: str, config: Config, rows: int) -> torch.Tensor | None:
        """Where each output row of `tensor` comes from, or None where the order is the same."""
        module = tensor.split(".")[-2]
        return self.orders[module](config, rows) if module in self.orders else None

    def is_transposed(self, tensor: str) -> bool:
        return tensor.endswith(".weight") and tensor.split(".")[-2] in self.transposed


def family_of(config: Config) -> GgufFamily:
    """Raises ModelError for a family that is not written here."""
    kind = str(config.model_type)
    if kind not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise ModelError(
            f"GGUF files are written for {known}, and this model is {kind!r}",
            "Export with --to merged, and convert that with llama.cpp's convert_hf_to_gguf.py",
        )
    return FAMILIES[kind]


def _bloom_order(config: Config, rows: int) -> torch.Tensor:
    heads = int(config.n_head)
    return torch.arange(rows).view(heads, 3, rows // (3 * heads)).transpose(0, 1).reshape(-1)


def _rotary_order(heads: str) -> Order:
    def order(config: Config, rows: int) -> torch.Tensor:
        count = int(getattr(config, heads, None) or config.num_attention_heads)
        return torch.arange(rows).view(count, 2, rows // count // 2).transpose(1, 2).reshape(-1)

    return order


def _bloom(writer: GGUFWriter, config: Config) -> None:
    width = int(config.hidden_size)
    writer.add_context_length(int(getattr(config, "seq_length", None) or 2048))
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(4 * width)
    writer.add_block_count(int(config.n_layer))
    writer.add_head_count(int(config.n_head))
    writer.add_head_count_kv(int(config.n_head))
    writer.add_layer_norm_eps(float(config.layer_norm_epsilon))
    if config.apply_residual_connection_post_layernorm:
        raise ModelError(
            "llama.cpp has no BLOOM with apply_residual_connection_post_layernorm", "Export with --to merged"
        )


def _gpt2(writer: GGUFWriter, config: Config) -> None:
    writer.add_context_length(int(config.n_ctx if hasattr(config, "n_ctx") else config.n_positions))
    writer.add_embedding_length(int(config.n_embd))
    writer.add_feed_forward_length(int(config.n_inner or 4 * config.n_embd))
    writer.add_block_count(int(config.n_layer))
    writer.add_head_count(int(config.n_head))
    writer.add_layer_norm_eps(float(config.layer_norm_epsilon))


def _rotary(writer: GGUFWriter, config: Config) -> None:
    heads = int(config.num_attention_heads)
    dim = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    rope = dict(getattr(config, "rope_parameters", None) or {})
    if rope.get("rope_type", "default") not in ("default", "llama3"):
        raise ModelError(
            f"the model's positions are scaled by {rope['rope_type']!r}, which is not written here",
            "Export with --to merged, and convert that with llama.cpp's convert_hf_to_gguf.py",
        )
    writer.add_context_length(int(config.max_position_embeddings))
    writer.add_embedding_length(int(config.hidden_size))
    writer.add_feed_forward_length(int(config.intermediate_size))
    writer.add_block_count(int(config.num_hidden_layers))
    writer.add_head_count(heads)
    writer.add_head_count_kv(int(config.num_key_value_heads or heads))
    writer.add_key_length(dim)
    writer.add_value_length(dim)
    writer.add_rope_dimension_count(dim)
    writer.add_rope_freq_base(float(rope.get("rope_theta", 10000.0)))
    writer.add_layer_norm_rms_eps(float(config.rms_norm_eps))


def rope_factors(config: Config) -> torch.Tensor | None:
    """Llama 3's scaling of each frequency, which llama.cpp reads as the tensor `rope_freqs.weight`: the wavelengths
    beyond the old context are stretched by `factor`, those well inside it are not, and between them it is smooth."""
    rope = dict(getattr(config, "rope_parameters", None) or {})
    if rope.get("rope_type") != "llama3":
        return None
    dim = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    wavelength = 2 * torch.pi * float(rope["rope_theta"]) ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)
    low, high, factor = (float(rope[name]) for name in ("low_freq_factor", "high_freq_factor", "factor"))
    old = float(rope["original_max_position_embeddings"])
    smooth = ((old / wavelength - low) / (high - low)).clamp(0, 1)
    return 1 / ((1 - smooth) / factor + smooth)


_LLAMA = GgufFamily(
    "LLAMA",
    _rotary,
    {"q_proj": _rotary_order("num_attention_heads"), "k_proj": _rotary_order("num_key_value_heads")},
    skipped=(".rotary_emb.inv_freq",),
)
FAMILIES = {
    "bloom": GgufFamily("BLOOM", _bloom, {"query_key_value": _bloom_order}),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": GgufFamily("QWEN2", _rotary, {}),
    "qwen3": GgufFamily("QWEN3", _rotary, {}),
    "gpt2": GgufFamily("GPT2", _gpt2, {}, ("c_attn", "c_proj", "c_fc"), (".attn.bias", ".attn.masked_bias"), ("wpe.weight",)),
}  # fmt: skip
