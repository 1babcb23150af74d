"""A base that is not whole is not loaded, in any width; the forms that whole ones have on the Hub are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from florilegium.errors import ModelError
from florilegium.model import load_base
from florilegium.model.weight_files import find_weights
from tests.tiny import make_tokenizer

CPU = torch.device("cpu")
Tensors = dict[str, torch.Tensor]
Change = Callable[[Tensors, dict[str, Any]], None]
BACKBONE = "transformer."


def without(*parts: str) -> Change:
    def change(tensors: Tensors, config: dict[str, Any]) -> None:
        for name in [name for name in tensors if any(part in name for part in parts)]:
            del tensors[name]

    return change


def renamed(old: str, new: str) -> Change:
    def change(tensors: Tensors, config: dict[str, Any]) -> None:
        for name in [name for name in tensors if old in name]:
            tensors[name.replace(old, new)] = tensors.pop(name)

    return change


def replaced(name: str, make: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    def change(tensors: Tensors, config: dict[str, Any]) -> None:
        tensors[name] = make(tensors[name]).contiguous()

    return change


def said(**values: Any) -> Change:
    return lambda tensors, config: config.update(values)


def added(name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Change:
    return lambda tensors, config: tensors.update({name: torch.ones(shape, dtype=dtype)})


NORM, FUSED, WORDS = (
    "transformer.ln_f.weight",
    "transformer.h.0.self_attention.query_key_value.weight",
    "word_embeddings",
)
DAMAGED: dict[str, tuple[Change, str]] = {
    "without its last norm": (without("ln_f"), "2 of its tensors are not in its files .transformer.ln_f.bias, "),
    "without one bias": (without("h.1.mlp.dense_4h_to_h.bias"), "1 of its tensors"),
    "without every bias of a kind": (without("dense_4h_to_h.bias"), "2 of its tensors"),
    "without a block": (without("h.1."), "12 of its tensors"),
    "without its embedding": (without("word_embeddings.weight"), "vocab_size is 400, and its weights hold no such"),
    "without the embedding's norm": (without("embeddings_layernorm"), "2 of its tensors"),
    "a prefix of another program": (renamed("transformer.", "evil."), "29 in its files have no place"),
    "one name wrong": (renamed("ln_f.bias", "ln_f.offset"), "ln_f.bias.*ln_f.offset"),
    "a compiled model's names": (renamed("transformer.", "_orig_mod.transformer."), "no place"),
    "fewer blocks in the config": (said(n_layer=1), "12 in its files have no place in it .transformer.h.1"),
    "more blocks in the config": (said(n_layer=3), "12 of its tensors are not in its files .transformer.h.2"),
    "an untied head that is not there": (said(tie_word_embeddings=False), "1 of its tensors are not.*lm_head"),
    "a larger vocabulary in the config": (said(vocab_size=399), r"has shape \[400, 32\], not \[399, 32\]"),
    "a narrower embedding": (replaced("transformer.word_embeddings.weight", lambda t: t[:, :16]), "do not fit"),
    "a matrix on its side": (replaced(FUSED, lambda t: t.T), r"has shape \[32, 96\], not \[96, 32\]"),
    "a norm of one number": (replaced(NORM, lambda t: t[:1]), "do not fit"),
    "a matrix of whole numbers": (replaced(FUSED, lambda t: (t * 99).to(torch.int8)), "is stored as I8"),
    "a norm of truths": (replaced(NORM, lambda t: t > 0), "is stored as BOOL"),
    "an embedding of 64-bit integers": (replaced("transformer.word_embeddings.weight", lambda t: t.long()), "as I64"),
    "eight-bit floats without scales": (replaced(FUSED, lambda t: t.to(torch.float8_e4m3fn)), "is stored as F8"),
    "a block too many": (added("transformer.h.2.ln.weight", 32), "1 in its files have no place"),
    "a value head": (added("v_head.summary.weight", 1, 32), "1 in its files have no place"),
    "LoRA that was not merged": (
        added("transformer.h.0.self_attention.query_key_value.lora_A.weight", 4, 32),
        "no place",
    ),
    "one tensor under two names": (added("ln_f.weight", 32), "holds transformer.ln_f.weight twice"),
}
WHOLE: dict[str, Change] = {
    "as Transformers saves it": lambda tensors, config: None,
    "as bigscience's, without a prefix": renamed("transformer.", ""),
    "with its prefix twice": renamed("transformer.", "transformer.transformer."),
    "with its tied head": lambda tensors, config: tensors.update(
        {"lm_head.weight": tensors["transformer.word_embeddings.weight"].clone()}
    ),
    "its tied head alone": renamed("transformer.word_embeddings.weight", "lm_head.weight"),
    "with a mask that models make themselves": added("transformer.h.0.self_attention.masked_bias", 1),
    "with rotary tables": added("transformer.rotary_emb.inv_freq", 4),
    "with a causal mask": added("transformer.h.0.attn.bias", 1, 1, 8, 8, dtype=torch.uint8),
    "in float16": lambda tensors, config: tensors.update({name: t.half() for name, t in tensors.items()}),
    "in bfloat16": lambda tensors, config: tensors.update({name: t.bfloat16() for name, t in tensors.items()}),
    "in float64": lambda tensors, config: tensors.update({name: t.double() for name, t in tensors.items()}),
    "with an untied head": lambda tensors, config: (
        tensors.update({"lm_head.weight": torch.ones(400, 32)}),
        config.update(tie_word_embeddings=False),
    )[0],
}


def edited(source: Path, folder: Path, change: Change) -> Path:
    shutil.copytree(source, folder)
    tensors, config = load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text())
    change(tensors, config)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("what", DAMAGED)
def test_a_model_that_is_not_whole_is_refused(tiny: Path, tmp_path: Path, what: str) -> None:
    change, cause = DAMAGED[what]
    folder = edited(tiny, tmp_path / "model", change)
    for bits in (8, 32):
        with pytest.raises(ModelError, match=cause) as refused:
            load_base(str(folder), bits=bits, device=CPU)
        assert refused.value.fix and len(str(refused.value)) < 1000, refused.value


@pytest.mark.parametrize("what", WHOLE)
def test_a_whole_model_loads_as_transformers_loads_it(tiny: Path, tmp_path: Path, what: str) -> None:
    folder = edited(tiny, tmp_path / "model", WHOLE[what])
    loaded = load_base(str(folder), bits=32, device=CPU).model.state_dict()
    stock = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
    assert loaded.keys() == stock.keys() and all(torch.equal(loaded[name], stock[name]) for name in stock)


@pytest.mark.parametrize("bits", [4, 16])
def test_half_a_download_is_refused_in_every_width(tiny: Path, tmp_path: Path, bits: int) -> None:
    with pytest.raises(ModelError, match="12 of its tensors are not in its files"):
        load_base(str(edited(tiny, tmp_path / "model", without("h.1."))), bits=bits, device=CPU)


def others() -> Iterator[tuple[str, Any, bool]]:
    """Families that take Transformers' own forward pass: name, configuration, whether the head is tied."""
    from transformers import (
        FalconConfig,
        GPT2Config,
        GPTNeoXConfig,
        LlamaConfig,
        Mamba2Config,
        MixtralConfig,
        Qwen2Config,
    )

    small = {"vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    wide = {"intermediate_size": 64, "num_key_value_heads": 2}
    yield "llama", LlamaConfig(**small, **wide), False
    yield "smollm", LlamaConfig(**small, **wide, tie_word_embeddings=True), True
    yield "qwen", Qwen2Config(**small, **wide, tie_word_embeddings=True), True
    yield "mixtral", MixtralConfig(**small, **wide, num_local_experts=2, num_experts_per_tok=1), False
    yield "neox", GPTNeoXConfig(**small, intermediate_size=64), False
    # its time_step_limit is (0, Infinity), which Transformers writes in a way of its own
    yield "mamba2", Mamba2Config(**small | {"head_dim": 8, "num_heads": 8, "state_size": 8, "n_groups": 1}), False
    yield "falcon", FalconConfig(**small), True
    yield "gpt2", GPT2Config(vocab_size=400, n_embd=32, n_layer=2, n_head=4, n_positions=64), True


FAMILIES = {name: (config, tied) for name, config, tied in others()}


def saved(folder: Path, name: str, **options: Any) -> Path:
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(FAMILIES[name][0]).save_pretrained(folder, **options)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", FAMILIES)
def test_other_families_load_whole_and_sharded_and_not_otherwise(tmp_path: Path, name: str) -> None:
    folder = saved(tmp_path / "whole", name)
    stock = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
    sharded = saved(tmp_path / "sharded", name, max_shard_size="40KB")
    assert "metadata" in json.loads((sharded / "model.safetensors.index.json").read_text())
    for path in (folder, sharded):
        loaded = load_base(str(path), bits=32, device=CPU).model.state_dict()
        assert all(torch.equal(loaded[key], stock[key]) for key in stock)
    load_base(str(folder), bits=8, device=CPU)
    block = {"neox": "layers.1.", "falcon": "h.1.", "gpt2": "h.1."}.get(name, "layers.1.")
    layers = "n_layer" if name == "gpt2" else "num_hidden_layers"
    for number, change in enumerate((without(block), without("norm"), without("ln_"), said(**{layers: 1}))):
        damaged = edited(folder, tmp_path / str(number), change)
        if find_weights(damaged, "it").tensors.keys() == find_weights(folder, "it").tensors.keys() and number < 3:
            continue
        for bits in (8, 32):
            with pytest.raises(ModelError, match="its config.json describes|layer_type"):
                load_base(str(damaged), bits=bits, device=CPU)


def test_a_llama_without_its_untied_head_and_with_tables_of_its_rotary_embedding(tmp_path: Path) -> None:
    folder = saved(tmp_path / "llama", "llama")
    with pytest.raises(ModelError, match=r"1 of its tensors are not in its files .lm_head.weight"):
        load_base(str(edited(folder, tmp_path / "headless", without("lm_head"))), bits=32, device=CPU)
    old = edited(folder, tmp_path / "old", added("model.layers.0.self_attn.rotary_emb.inv_freq", 4))
    load_base(str(old), bits=32, device=CPU)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_base_that_bitsandbytes_quantised_before_loads_and_only_whole(tiny: Path, tmp_path: Path, bits: int) -> None:
    base = load_base(str(tiny), bits=bits, device=CPU)
    base.model.save_pretrained(tmp_path / "quantised")
    base.tokenizer.save_pretrained(tmp_path / "quantised")
    again = load_base(str(tmp_path / "quantised"), bits=32, device=CPU).model.state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in base.model.state_dict().items())
    for number, change in enumerate((without("ln_f"), without("h.1."), said(n_layer=1))):
        with pytest.raises(ModelError):
            load_base(str(edited(tmp_path / "quantised", tmp_path / str(number), change)), bits=bits, device=CPU)
