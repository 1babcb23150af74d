"""Adapters made to deceive: tensors that are no part of them, settings that no LoRA has, facts that are none."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.torture.hostile import Change, both, edit_json, edit_tensors

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
QKV = f"{PREFIX}transformer.h.0.self_attention.query_key_value"


def forget(folder: Path) -> None:
    """As an adapter that others made: without florilegium.json's sums."""
    (folder / "florilegium.json").unlink(missing_ok=True)


def extra(name: str, *shape: int) -> Change:
    return both(forget, edit_tensors(lambda t: t.update({name: torch.zeros(shape)}), WEIGHTS))


def first(number: float | None = None, dtype: torch.dtype | None = None) -> Change:
    """The first matrix with another number in it, or of another kind."""

    def edit(tensors: dict[str, torch.Tensor]) -> None:
        name = min(tensors)
        if number is not None:
            tensors[name][0, 0] = number
        if dtype is not None:
            tensors[name] = tensors[name].to(dtype)

    return both(forget, edit_tensors(edit, WEIGHTS))


def lora(**values: object) -> Change:
    return both(forget, edit_json("adapter_config.json", **values))


OVERWRITES: dict[str, Change] = {
    **{f"extra {name}": extra(PREFIX + name, *shape) for name, shape in {
        "transformer.word_embeddings.weight": (400, 32), "transformer.ln_f.weight": (32,), "transformer.ln_f.bias": (32,),
        "lm_head.weight": (400, 32), "transformer.word_embeddings_layernorm.weight": (32,),
        "transformer.h.0.self_attention.query_key_value.base_layer.weight": (96, 32),
        "transformer.h.0.self_attention.query_key_value.weight": (96, 32),
        "transformer.h.0.self_attention.query_key_value.bias": (96,),
        "transformer.h.0.self_attention.query_key_value.base_layer.bias": (96,),
        "transformer.h.0.self_attention.dense.weight": (32, 32), "transformer.h.1.input_layernorm.weight": (32,),
        "transformer.h.1.mlp.dense_4h_to_h.bias": (32,)}.items()},
    "extra without PEFT's prefix": extra("transformer.ln_f.weight", 32),
    "extra of the wrapper": extra("base_model.transformer.ln_f.weight", 32),
    "extra of another adapter": extra(f"{QKV}.lora_A.other.weight", 16, 32),
    "a name of nothing": extra("", 1),
    "a name of elsewhere": extra(f"{PREFIX}../../x", 1),
    "a name of a line": extra(f"{QKV}.lora_A.weight\nx", 16, 32),
    "LoRA of a block that is not there": extra(f"{PREFIX}transformer.h.9.self_attention.query_key_value.lora_A.weight", 16, 32),
    "LoRA of what takes none": extra(f"{PREFIX}transformer.ln_f.lora_A.weight", 16, 32),
    "a magnitude without DoRA": extra(f"{QKV}.lora_magnitude_vector", 96),
    "a bias that is not said": both(extra(f"{QKV}.base_layer.bias", 96), edit_json("adapter_config.json", bias="none")),
    "a bias of what has no LoRA": both(
        extra(f"{PREFIX}transformer.ln_f.bias", 32), edit_json("adapter_config.json", bias="lora_only")),
    "a module that is not said": both(
        extra(f"{PREFIX}transformer.ln_f.weight", 32), edit_json("adapter_config.json", modules_to_save=["lm_head"])),
}  # fmt: skip
NO_LORA: dict[str, Change] = {
    **{f"{key} {value!r}": lora(**{key: value}) for key, values in {
        "r": (0, -1, 10**9, 1.5, "16", None, True, float("nan"), [16]),
        "lora_alpha": (0, -8, float("nan"), float("inf"), 1e300, "x", None),
        "lora_dropout": (-0.5, 1.0, float("nan"), "x"),
        "alpha_pattern": ({"query_key_value": float("nan")}, {"query_key_value": "x"}, ["x"], {"((a+)+)+$": 1}),
        "rank_pattern": ({"query_key_value": 1e9}, {"query_key_value": 1.5}, {"query_key_value": None}, "x"),
        "bias": ("evil", 7, True), "use_rslora": ("yes", 1), "use_dora": ("no",), "fan_in_fan_out": ("x",),
        "init_lora_weights": ("evil", 7, ["pissa"]), "layers_to_transform": (["x"], -1, 1.5, [10**9]),
        "target_modules": ([7], ["../x"], 7, {}), "modules_to_save": ("ln_f", [7], ["a b"]), "task_type": ("SEQ_CLS", 7),
        "peft_type": ("ADALORA", None, "IA3"), "layer_replication": ([[0, 10**9]],), "megatron_config": ({"a": 1},),
        "loftq_config": ({"loftq_bits": 4},), "auto_mapping": ({"base_model_class": "Evil", "parent_library": "evil"},),
        "corda_config": ({"cache_file": "/etc/passwd"},), "trainable_token_indices": ([1, 2],),
    }.items() for value in values},
    "NaN in a matrix": first(float("nan")), "infinity in a matrix": first(float("inf")),
    "whole numbers in a matrix": first(dtype=torch.int32), "truths in a matrix": first(dtype=torch.bool),
    "eight bits in every matrix": both(forget, edit_tensors(
        lambda t: t.update({name: tensor.to(torch.int8) for name, tensor in t.items()}), WEIGHTS)),
}  # fmt: skip
NO_FACTS: dict[str, Change] = {
    f"{key} {value!r}": edit_json("florilegium.json", **{key: value}) for key, values in {
        "base": ([], "x", {"name": 7}, {"name": "a\0b"}, {"name": "x" * 5000}, {"hidden_size": 64}, {"digest": 7},
                 {"shape": {"num_attention_heads": 2}}),
        "format": (99, 2, 0, -1, 1.5, "1", True, None, [1], 10**30),
        "bits": ("eight", 7, 0, 10**9, True, 8.0), "files": ([], "x", {}), "list_columns": ([7], "tags"), "lora": ([], {"r": 999}),
        "openings": ({"a": "x"}, {"a": -1}, {"a": True}, []), "revision": (7, ["main"]),
        "template": (7, "{quote.__class__}", "no column", ""),
    }.items() for value in values
}  # fmt: skip
