"""Tiny random models of every family of causal LMs that people bring, and what a table of them says.

name -> (model_type, config)        drawn by `make_model`; `mask` in WAYS is what `find_packing` has to answer

A release of Transformers may change how a family is told its documents: SINCE_5_24 holds what that one changed."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from packaging.version import Version
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

VOCABULARY = 400
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 3,
}
PLAIN = {name: value for name, value in COMMON.items() if name not in ("num_key_value_heads", "head_dim")}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "eos_token_id": 2}
OPT = {**PLAIN, "ffn_dim": 48, "word_embed_proj_dim": 32}
WINDOW = {**COMMON, "sliding_window": 5}
SCALED = {**WINDOW, "query_pre_attn_scalar": 8}
TWO_KINDS = {"layer_types": ["sliding_attention", "full_attention"]}

PACKED_BY_POSITIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("llama", COMMON),
    "Qwen2": ("qwen2", COMMON),
    "Qwen3": ("qwen3", COMMON),
    "Qwen3-MoE": (
        "qwen3_moe",
        {**COMMON, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    ),
    "SmolLM3": ("smollm3", {**COMMON, "no_rope_layers": [1, 0]}),
    "Mistral": ("mistral", WINDOW),
    "Mixtral": ("mixtral", {**COMMON, "num_local_experts": 2, "num_experts_per_tok": 1}),
    "Gemma": ("gemma", COMMON),
    "Gemma 2": ("gemma2", {**SCALED, "final_logit_softcapping": 2.0}),
    "Gemma 3": ("gemma3_text", {**SCALED, **TWO_KINDS, "final_logit_softcapping": 3.0}),
    "Cohere": ("cohere", {**COMMON, "logit_scale": 0.25}),
    "Cohere 2": ("cohere2", {**WINDOW, "logit_scale": 0.25}),
    "Granite": ("granite", {**COMMON, "logits_scaling": 6.0}),
    "Phi": ("phi", COMMON),
    "GPT-J": ("gptj", {**GPT2, "rotary_dim": 4}),
    "CodeGen": ("codegen", {**GPT2, "rotary_dim": 4}),
    "Phi-3": ("phi3", WINDOW),
    "OLMo": ("olmo", COMMON),
    "OLMo 2": ("olmo2", COMMON),
    "OLMo 3": ("olmo3", WINDOW),
    "GPT-NeoX": ("gpt_neox", PLAIN),
    "GPT-2": ("gpt2", GPT2),
    "GPT-BigCode": ("gpt_bigcode", GPT2),
    "GPT-Neo": (
        "gpt_neo",
        {**PLAIN, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 5},
    ),
    "StableLM": ("stablelm", COMMON),
    "StarCoder2": ("starcoder2", WINDOW),
    "Nemotron": ("nemotron", COMMON),
    "Persimmon": ("persimmon", PLAIN),
    "ERNIE 4.5": ("ernie4_5", COMMON),
    "Helium": ("helium", COMMON),
    "EXAONE 4": ("exaone4", WINDOW),
    "GLM": ("glm", COMMON),
    "GLM-4": ("glm4", COMMON),
}
PACKED_BY_MASK = {
    "Falcon": ("falcon", {**PLAIN, "alibi": False}),
    "OPT": ("opt", OPT),
    "MPT": (
        "mpt",
        {
            "vocab_size": VOCABULARY,
            "d_model": 32,
            "n_layers": 2,
            "n_heads": 4,
            "max_seq_len": 128,
            "expansion_ratio": 2,
            "eos_token_id": 2,
        },
    ),
    "BioGPT": ("biogpt", PLAIN),
    "XGLM": ("xglm", {**PLAIN, "d_model": 32, "ffn_dim": 48, "num_layers": 2, "attention_heads": 4}),
}
PADDED = {
    "Falcon with ALiBi": ("falcon", {**PLAIN, "alibi": True}),
    "RecurrentGemma": (
        "recurrent_gemma",
        {**COMMON, "lru_width": 32, "attention_window_size": 64, "logits_soft_cap": 2.0},
    ),
    "LFM2": ("lfm2", {**COMMON, "layer_types": ["conv", "full_attention"]}),
}
FAMILIES = {**PACKED_BY_POSITIONS, **PACKED_BY_MASK, **PADDED}
WAYS_BEFORE = {
    **dict.fromkeys(PACKED_BY_POSITIONS, "positions"),
    **dict.fromkeys(PACKED_BY_MASK, "mask"),
    **dict.fromkeys(PADDED, ""),
}
SINCE_5_24 = {"Falcon": "positions", "Falcon with ALiBi": "positions"}  # it hands them to `create_causal_mask`
WAYS = WAYS_BEFORE | (SINCE_5_24 if Version(transformers.__version__) >= Version("5.24") else {})


WIDTH_OF = (
    "hidden_size",
    "intermediate_size",
    "head_dim",
    "n_embd",
    "d_model",
    "ffn_dim",
    "word_embed_proj_dim",
    "lru_width",
)
GROW = (
    *WIDTH_OF,
    "moe_intermediate_size",
    "rotary_dim",
    "query_pre_attn_scalar",
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
)


def make_model(name: str, *, times_wider: int = 1, vocabulary: int = VOCABULARY, **sizes: int) -> PreTrainedModel:
    """Weights large enough that attention is not uniform: a leak must show. `sizes` of its config in place of the small
    ones."""
    model_type, small = FAMILIES[name]
    config = {key: value * times_wider if key in GROW else value for key, value in small.items()}
    config |= {"vocab_size": vocabulary, **sizes}
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **config), dtype=torch.float32)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 0.2, generator=generator)
    if (bias := getattr(model.get_output_embeddings(), "bias", None)) is not None:
        bias.data.normal_(0, 1, generator=generator)
    return model.eval()
