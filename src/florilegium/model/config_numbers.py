"""The numbers in a config.json, looked at before a model is made of them.

Transformers takes most of them as they are: zero heads divide by zero, an epsilon that is NaN trains to NaN, 1e9 layers
are built until memory is gone. Here each field that models of today compute with has its range; what the weights can
tell (layers, widths) is compared with their headers. A field that is not listed is left to Transformers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from florilegium.errors import ModelError
from florilegium.model.untrusted import entries
from florilegium.model.weight_files import WeightFiles

LARGEST = 1 << 31  # of a count that no tensor shows: positions, a window


@dataclass(frozen=True)
class Range:
    """What a field may be: a number from `low` to `high`, whole or not; None and lists of such numbers where models have
    those."""

    low: float
    high: float
    whole: bool = False

    def holds(self, value: object) -> bool:
        if value is None:
            return True
        if isinstance(value, list):
            return all(self.holds(item) for item in value)
        if isinstance(value, bool) or not isinstance(value, int if self.whole else (int, float)):
            return False
        return math.isfinite(value) and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{'a whole' if self.whole else 'a'} number from {self.low:g} to {self.high:g}"


DEPTH = Range(1, 10_000, whole=True)  # the deepest model has some hundreds; an outline is made of each
COUNT, SIZE = Range(1, LARGEST, whole=True), Range(0, LARGEST, whole=True)
EPSILON, SHARE, FACTOR = Range(0, 1), Range(0, 1), Range(-1e9, 1e9)
TOKEN = Range(-1, LARGEST, whole=True)  # -1: none, in the first Llamas
RANGES: dict[str, Range] = {
    **dict.fromkeys(("n_layer", "num_hidden_layers", "num_layers", "n_layers"), DEPTH),
    **dict.fromkeys(
        ("hidden_size", "n_embed", "n_embd", "d_model", "vocab_size", "intermediate_size", "ffn_dim"), COUNT
    ),
    **dict.fromkeys(
        ("n_head", "n_heads", "num_attention_heads", "num_heads", "num_key_value_heads", "head_dim"), COUNT
    ),
    **dict.fromkeys(("n_positions", "max_position_embeddings", "pretraining_tp", "num_kv_heads", "n_ctx"), COUNT),
    **dict.fromkeys(("num_local_experts", "num_experts", "n_routed_experts", "num_experts_per_tok"), SIZE),
    **dict.fromkeys(("sliding_window", "n_inner", "attention_chunk_size", "moe_intermediate_size"), SIZE),
    **dict.fromkeys(("layer_norm_epsilon", "layer_norm_eps", "rms_norm_eps", "norm_epsilon", "norm_eps"), EPSILON),
    **dict.fromkeys(("hidden_dropout", "attention_dropout", "attn_pdrop", "resid_pdrop", "embd_pdrop"), SHARE),
    **dict.fromkeys(
        ("resid_dropout", "embedding_dropout", "dropout", "activation_dropout", "classifier_dropout"), SHARE
    ),
    **dict.fromkeys(("partial_rotary_factor", "rotary_pct"), SHARE),
    **dict.fromkeys(("rope_theta", "rotary_emb_base", "rope_local_base_freq"), Range(1e-3, 1e15)),
    **dict.fromkeys(("logit_scale", "embedding_multiplier", "residual_multiplier", "attention_multiplier"), FACTOR),
    **dict.fromkeys(("logits_scaling", "final_logit_softcapping", "attn_logit_softcapping"), FACTOR),
    **dict.fromkeys(
        ("factor", "low_freq_factor", "high_freq_factor", "attention_factor", "beta_fast", "beta_slow"), FACTOR
    ),
    **dict.fromkeys(("query_pre_attn_scalar", "clip_qkv", "attention_multiplier"), FACTOR),
    **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), TOKEN),
    "initializer_range": Range(0, 1e3),
}
SWITCHES = (
    "tie_word_embeddings", "apply_residual_connection_post_layernorm", "slow_but_exact", "use_cache", "attention_bias",
    "mlp_bias", "alibi", "multi_query", "parallel_attn", "new_decoder_architecture", "bias", "use_parallel_residual",
)  # fmt: skip
# What tensors show: no model has more layers than tensors, and none is wider than its largest tensor.
LAYERS = ("n_layer", "num_hidden_layers", "num_layers", "n_layers")
WIDTHS = (
    "hidden_size",
    "n_embed",
    "n_embd",
    "d_model",
    "vocab_size",
    "intermediate_size",
    "n_head",
    "num_attention_heads",
)


def check_numbers(config: Mapping[str, Any], name: str) -> None:
    """Raises ModelError for the first field of `config`, or of a part of it, that is out of its range."""
    for key, value in entries(config):
        if key in RANGES and not RANGES[key].holds(value):
            _refuse(name, key, value, f"it must be {RANGES[key]}")
        if key in SWITCHES and not isinstance(value, (bool, type(None))):
            _refuse(name, key, value, "it must be true or false")


def check_sizes(config: Mapping[str, Any], files: WeightFiles) -> None:
    """Compares what `config` announces with the headers of the weight files. Raises ModelError."""
    largest = max((size for tensor in files.tensors.values() for size in tensor.shape), default=0)
    for key, value in entries(config):
        limit = len(files.tensors) if key in LAYERS else largest if key in WIDTHS else None
        if limit is not None and isinstance(value, int) and value > max(1, limit):
            _refuse(files.name, key, value, "its weights hold no such thing")


def _refuse(name: str, key: str, value: object, why: str) -> None:
    raise ModelError(f"the config.json of {name} says {key} is {repr(value)[:40]}, and {why}", "Get the model again")
