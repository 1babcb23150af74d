"""Llama, Mistral, Qwen and GPT-2, tiny and random, in a real llama.cpp; what is not written is said in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from florilegium.cli.main import main
from florilegium.export.gguf_families import rope_factors
from florilegium.export.gguf_vocabulary import PATTERNS
from florilegium.runs.export import export
from tests.export.adapters import save_adapter
from tests.tiny import WORDS

pytest.importorskip("gguf")
pytest.importorskip("xllamacpp")

SHAPE = {
    "vocab_size": 400, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
BY_NAME = {name: pattern for pattern, name in PATTERNS.items()}
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def byte_level(pattern: str | None) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    split = [pre_tokenizers.Split(Regex(pattern), behavior="isolated"), level] if pattern else [level]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split) if pattern else level
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>", "<s>", "</s>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(WORDS * 20, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def sentence_pieces() -> PreTrainedTokenizerFast:
    """As Llama 2's and Mistral's: bytes where nothing else fits, and a space is ▁."""
    pieces = byte_level(None)
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    letters = sorted({c for text in WORDS for c in text if c != " "} | {"▁"})
    trainer = trainers.BpeTrainer(vocab_size=390, special_tokens=special[:3], initial_alphabet=letters)
    tokenizer.train_from_iterator(WORDS * 20, trainer)
    import json

    described = json.loads(tokenizer.to_str())
    vocab = {token: i for i, token in enumerate(special)}
    for token in sorted(described["model"]["vocab"], key=described["model"]["vocab"].get):
        vocab.setdefault(token, len(vocab))
    described["model"]["vocab"] = vocab
    pieces = Tokenizer.from_str(json.dumps(described))
    assert pieces.get_vocab_size() <= 400
    return PreTrainedTokenizerFast(tokenizer_object=pieces, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def save(folder: Path, config: Any, tokenizer: PreTrainedTokenizerFast) -> Path:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


CASES: dict[str, tuple[Any, str | None, list[str]]] = {
    "llama": (LlamaConfig(**SHAPE, rope_parameters=LLAMA3), BY_NAME["llama-bpe"], LINEARS),
    "llama-tied": (LlamaConfig(**SHAPE, tie_word_embeddings=True), BY_NAME["llama-bpe"], LINEARS),
    "qwen2": (Qwen2Config(**SHAPE), BY_NAME["qwen2"], LINEARS),
    "qwen3": (Qwen3Config(**SHAPE, head_dim=16), BY_NAME["qwen2"], LINEARS),
    "gpt2": (
        GPT2Config(vocab_size=400, n_embd=32, n_layer=2, n_head=4, n_positions=512, bos_token_id=1, eos_token_id=2),
        None,
        ["c_attn", "c_proj", "c_fc"],
    ),
}


EVERY = [(name, form) for name in CASES for form in ("gguf", "gguf-adapter")]
QUICK = [("llama", "gguf"), ("qwen2", "gguf-adapter"), ("gpt2", "gguf")]


@pytest.mark.parametrize(
    ("name", "form"), [pytest.param(*case, marks=[] if case in QUICK else pytest.mark.slow) for case in EVERY]
)
def test_in_llama_cpp(tmp_path: Path, name: str, form: str) -> None:
    config, pattern, linears = CASES[name]
    base = save(tmp_path / "base", config, byte_level(pattern))
    adapter = save_adapter(base, tmp_path / "a", target_modules=linears, fan_in_fan_out=name == "gpt2", seed=2)
    verdict = export(adapter, to=form, kind="f32", output=str(tmp_path / "out")).verdict
    assert verdict.passed and verdict.tokens_equal == verdict.greedy_equal == 32
    assert verdict.largest_distance is not None and verdict.largest_distance < 0.003


def test_sentence_pieces(tmp_path: Path) -> None:
    base = save(tmp_path / "base", MistralConfig(**SHAPE, sliding_window=None), sentence_pieces())
    adapter = save_adapter(base, tmp_path / "a", target_modules=LINEARS)
    verdict = export(adapter, to="gguf", kind="f32", output=str(tmp_path / "out")).verdict
    assert verdict.passed and verdict.tokens_equal == 32


def test_a_family_that_is_not_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shape = {name: value for name, value in SHAPE.items() if name != "num_key_value_heads"}
    base = save(tmp_path / "base", GPTNeoXConfig(**shape), byte_level(None))
    adapter = save_adapter(base, tmp_path / "a", target_modules=["query_key_value"])
    assert main(["export", str(adapter), "--to", "gguf", "--output", str(tmp_path / "out")]) == 4
    assert "this model is 'gpt_neox'" in capsys.readouterr().err


def test_llama3_factors_are_those_of_transformers() -> None:
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = LlamaConfig(**SHAPE, rope_parameters=LLAMA3)
    plain = LlamaRotaryEmbedding(LlamaConfig(**SHAPE)).inv_freq
    factors = rope_factors(config)
    assert factors is not None
    torch.testing.assert_close(plain / factors, LlamaRotaryEmbedding(config).inv_freq)
