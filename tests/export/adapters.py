"""Adapters of every kind that PEFT can merge, on tiny BLOOMs, with numbers far from their start."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

ALL_LINEAR = ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"]
KINDS: dict[str, dict[str, Any]] = {
    "qkv": {"target_modules": ["query_key_value"]},
    "all-linear": {"target_modules": ALL_LINEAR},
    "rslora": {"target_modules": ALL_LINEAR, "use_rslora": True},
    "dora": {"target_modules": ALL_LINEAR, "use_dora": True},
    "patterns": {"target_modules": ALL_LINEAR, "rank_pattern": {"dense": 2}, "alpha_pattern": {"dense_h_to_4h": 3}},
    "bias": {"target_modules": ["query_key_value"], "bias": "lora_only"},
    "lora-bias": {"target_modules": ["query_key_value"], "lora_bias": True},
    "head": {"target_modules": ["query_key_value"], "modules_to_save": ["lm_head"]},
    "embedding": {"target_modules": ["query_key_value"], "modules_to_save": ["word_embeddings"]},
    "head-lora": {"target_modules": ["query_key_value", "lm_head"]},
    "embedding-lora": {"target_modules": ["query_key_value", "word_embeddings"]},
    "embedding-dora": {"target_modules": ["query_key_value", "word_embeddings"], "use_dora": True},
    "pissa": {"target_modules": ["query_key_value"], "init_lora_weights": "pissa"},
    "olora": {"target_modules": ["dense"], "init_lora_weights": "olora"},
}


def save_adapter(base: Path, folder: Path, *, seed: int = 1, size: float = 0.1, **lora: Any) -> Path:
    """A LoRA adapter in `folder` for the model in `base`, as PEFT saves it."""
    values = {"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", **lora}
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        tuned = get_peft_model(model, LoraConfig(**values))
        with torch.no_grad():
            for name, parameter in tuned.named_parameters():
                if parameter.requires_grad:
                    spread = size if "lora_" in name else size * float(parameter.std())
                    parameter.add_(torch.randn_like(parameter) * spread)
        tuned.save_pretrained(folder, save_embedding_layers=False)
    return folder
