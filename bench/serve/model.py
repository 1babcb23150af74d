"""What is served in the benchmark: a BLOOM of a real size with random weights, or the demo model, with a random adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.common.checkpoint import QUOTES, make_checkpoint
from bench.common.gpu_model import SIZES, VOCABULARY


def make_model(folder: Path, size: str, bits: int) -> Path:
    """A checkpoint in `folder`, made on the GPU; the adapter's folder."""
    from florilegium.seedling import FOLDER

    data = QUOTES if QUOTES.is_file() else FOLDER / "sayings.jsonl"
    make_checkpoint(folder, size, data)
    every_token_has_a_text(folder / "tokenizer.json")
    width, _, layers = SIZES[size]
    return make_adapter(folder.parent / "bench" / "adapter", str(folder), width, layers, bits)


def make_demo(folder: Path, deviation: float = 0.02) -> Path:
    """The adapter's folder, for the demo model in float32. Of numbers ten times as large texts are nonsense without end."""
    from florilegium.seedling import FOLDER

    config = json.loads((FOLDER / "config.json").read_text())
    width, layers = config.get("hidden_size") or config["n_embed"], config["n_layer"]
    return make_adapter(folder / "bench" / "adapter", "seedling", width, layers, 32, deviation)


def every_token_has_a_text(path: Path) -> None:
    """Random weights write any token, and one that the tokenizer does not know has no text to send."""
    tokenizer: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    for number in range(len(vocabulary), VOCABULARY):
        vocabulary[f"Ġw{number}"] = number
    path.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")


def make_adapter(folder: Path, base: str, width: int, layers: int, bits: int, deviation: float = 0.02) -> Path:
    """LoRA r=16 on query_key_value with random numbers, as PEFT saves it and with what `florilegium train` adds."""
    import torch
    from peft import LoraConfig
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    generator, tensors = torch.Generator().manual_seed(1), {}
    for layer in range(layers):
        name = f"base_model.model.transformer.h.{layer}.self_attention.query_key_value"
        for part, shape in (("lora_A", (16, width)), ("lora_B", (3 * width, 16))):
            tensors[f"{name}.{part}.weight"] = torch.randn(shape, generator=generator) * deviation
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    LoraConfig(
        r=16, lora_alpha=32, target_modules=["query_key_value"], task_type="CAUSAL_LM", base_model_name_or_path=base,
        inference_mode=True,
    ).save_pretrained(folder)  # fmt: skip
    facts = {"base": {"name": base}, "bits": bits, "template": "{quote} ->: {tags}", "list_columns": ["tags"]}
    (folder / "florilegium.json").write_text(json.dumps(facts))
    return folder
