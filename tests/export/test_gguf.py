"""GGUF files in a real llama.cpp: token for token what Transformers reads and writes."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from florilegium.cli.main import main
from florilegium.data import read_rows
from florilegium.export.gguf_vocabulary import read_vocabulary
from florilegium.export.llama_check import ask_llama_cpp
from florilegium.runs.export import Exported, export
from florilegium.seedling import FOLDER as SEEDLING
from tests.export.adapters import ALL_LINEAR, KINDS, save_adapter
from tests.tiny import save_tiny

pytest.importorskip("gguf")
pytest.importorskip("xllamacpp")

HARD = [
    "It's 3,14 — “Être” é é ->: 数学, हिन्दी; don't\n\t STOP... ﬁne", " two  spaces ", "\n\n\n", "a" * 200, "(brackets) [and] {braces}",
    "क्षत्रिय ज्ञान।", "السلام، عليكم۔", "你好，世界。", "👩‍👩‍👧‍👦 🏳️‍🌈", "\u200b\u00a0\u3000", "x\r\ny", "1234567890.5", "C'est l'été!", 
    "ŒUVRE Ǆ ß",    "->:->: ->:", "tab\tseparated\tvalues", "\u0301e\u0301", "ﷺ", "don’t—stop…", "!?!?...,,,",
]  # fmt: skip


def checked(adapter: Path, output: Path, base: Path | None = None, **asked: Any) -> Exported:
    done = export(adapter, output=str(output), model=str(base) if base else None, **asked)
    assert done.verdict.run_by == "llama.cpp" and done.verdict.tokens_equal == 32
    return done


@pytest.mark.parametrize(
    ("heads", "kind", "written"),
    [(3, "all-linear", "f32"), (5, "rslora", "f16"), (16, "dora", "f32"), (4, "head", "f32")],
)
def test_merged(tmp_path: Path, heads: int, kind: str, written: str) -> None:
    base = save_tiny(tmp_path / "base", heads=heads, noise=0.05)
    done = checked(save_adapter(base, tmp_path / "a", **KINDS[kind]), tmp_path / "out", to="gguf", kind=written)
    assert done.verdict.passed and done.verdict.greedy_equal == 32
    assert done.verdict.largest_distance < (0.003 if written == "f32" else 0.01)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("bias", "lora-bias")])
@pytest.mark.parametrize("heads", [3, 4, 5, 7, 8, 12, 16])
def test_every_shape_and_kind(tmp_path: Path, heads: int, kind: str) -> None:
    base = save_tiny(tmp_path / "base", heads=heads, noise=0.05)
    done = checked(save_adapter(base, tmp_path / "a", **KINDS[kind]), tmp_path / "out", to="gguf", kind="f32")
    # the verdict lets texts part at a tie alone, and of so many random models one meets a tie
    assert done.verdict.passed and done.verdict.greedy_equal >= 31


@pytest.mark.parametrize("lora", [{"use_rslora": True}, KINDS["patterns"]], ids=["rslora", "patterns"])
def test_the_adapter_alone(tmp_path: Path, lora: dict[str, Any]) -> None:
    base = save_tiny(tmp_path / "base", heads=3, noise=0.05)
    adapter = save_adapter(base, tmp_path / "a", **{"target_modules": ALL_LINEAR, **lora})
    done = checked(adapter, tmp_path / "out", to="gguf-adapter")
    assert done.verdict.passed and done.verdict.greedy_equal == 32 and done.verdict.largest_distance < 0.003
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"a-LoRA.gguf", "export.json", "README.md"}


@pytest.mark.parametrize("kind", ["dora", "head", "embedding-lora", "pissa", "lora-bias"])
def test_more_than_lora_is_no_lora_gguf(
    tiny: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = save_adapter(tiny, tmp_path / "a", **KINDS[kind])
    assert main(["export", str(adapter), "--to", "gguf-adapter", "--output", str(tmp_path / "out")]) == 4
    assert "LoRA on linears alone" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def seedling_q8(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Exported]:
    folder = tmp_path_factory.mktemp("seedling")
    adapter = save_adapter(SEEDLING, folder / "a", size=0.005, r=16, lora_alpha=32, target_modules=ALL_LINEAR)
    return folder, adapter, checked(adapter, folder / "q8", SEEDLING, to="gguf", kind="q8_0")


def test_the_seedling_in_8_and_16_bits(seedling_q8: tuple[Path, Path, Exported]) -> None:
    folder, adapter, q8 = seedling_q8
    f16 = checked(adapter, folder / "f16", SEEDLING, to="gguf", kind="f16").verdict
    assert f16.passed and f16.greedy_equal == 32 and f16.largest_distance < 0.02
    assert q8.verdict.passed and q8.verdict.largest_distance < 0.5
    assert 'PARAMETER stop "</s>"' in (folder / "q8" / "Modelfile").read_text()
    assert "{{ .Prompt }} ->:" in (folder / "q8" / "Modelfile").read_text()


def same_tokens(model: Path, texts: list[str]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(SEEDLING)
    said = ask_llama_cpp(texts, tokenizer.eos_token_id, model, new_tokens=0)["tokens"]
    different = [text for text, ids in zip(texts, said, strict=True) if tokenizer(text)["input_ids"] != ids]
    assert not different, different[:3]


def test_tokens_of_hard_texts(seedling_q8: tuple[Path, Path, Exported]) -> None:
    same_tokens(next(seedling_q8[2].directory.glob("*.gguf")), HARD)


def test_tokens_of_english_quotes(seedling_q8: tuple[Path, Path, Exported], english_quotes: Path) -> None:
    rows = read_rows(english_quotes, skip_bad_rows=True)
    same_tokens(next(seedling_q8[2].directory.glob("*.gguf")), [rows.template.render(quote) for quote in rows.quotes])


def test_metadata(seedling_q8: tuple[Path, Path, Exported]) -> None:
    import gguf

    reader = gguf.GGUFReader(next(seedling_q8[2].directory.glob("*.gguf")))
    facts = {name: field.contents() for name, field in reader.fields.items()}
    kept = json.loads((seedling_q8[2].directory / "export.json").read_text())
    assert facts["tokenizer.ggml.pre"] == "bloom" and facts["general.license"] == "apache-2.0"
    assert facts["florilegium.adapter.sha256"] == kept["adapter"]["sha256"]
    assert facts["general.base_model.0.name"] == "florilegium's demo model"
    assert facts["tokenizer.chat_template"] == '{{ "" + messages[-1]["content"] + " ->:" }}'
    assert "output.weight" not in {tensor.name for tensor in reader.tensors}


def test_a_changed_vocabulary(tmp_path: Path) -> None:
    """Tokens were added and the embedding grew: llama.cpp's own converter refuses such a BLOOM."""
    from tests.tiny import make_bloom, make_tokenizer

    tokenizer, base = make_tokenizer(), tmp_path / "base"
    tokenizer.add_tokens(["<quote>", "kindness"])
    tokenizer.save_pretrained(base)
    make_bloom(vocabulary=len(tokenizer) + 6, noise=0.05).save_pretrained(base)
    adapter = save_adapter(base, tmp_path / "a", **KINDS["qkv"])
    done = checked(adapter, tmp_path / "out", to="gguf", kind="f32")
    assert done.verdict.passed and done.verdict.greedy_equal == 32
    text = "<quote>Be kind, kindness."
    model = next((tmp_path / "out").glob("*.gguf"))
    assert ask_llama_cpp([text], 2, model, new_tokens=0)["tokens"] == [tokenizer(text)["input_ids"]]


def test_a_wrong_order_of_rows_is_found(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dataclasses import replace

    from florilegium.export import gguf_families

    wrong = replace(gguf_families.FAMILIES["bloom"], orders={})
    monkeypatch.setitem(gguf_families.FAMILIES, "bloom", wrong)
    adapter = save_adapter(tiny, tmp_path / "a", **KINDS["qkv"])
    assert main(["export", str(adapter), "--to", "gguf", "--type", "f32", "--output", str(tmp_path / "o" / "x")]) == 4
    assert "failed its check and was removed" in capsys.readouterr().err and list((tmp_path / "o").iterdir()) == []


def test_a_type_that_llama_quantize_makes(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not installed: said. A program of that name on the PATH is called with the file, and its result is checked (this
    one copies: how K-quants round is llama.cpp's own matter)."""
    adapter = save_adapter(tiny, tmp_path / "a", **KINDS["qkv"])
    command = ["export", str(adapter), "--to", "gguf", "--type", "Q4_K_M", "--output", str(tmp_path / "out")]
    if not shutil.which("llama-quantize"):
        assert main(command) == 2 and "llama-quantize" in capsys.readouterr().err
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "llama-quantize"
    program.write_text('#!/bin/sh\n[ "$3" = Q4_K_M ] && cp "$1" "$2"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    assert main(command) == 0
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"a-Q4_K_M.gguf", "Modelfile", "README.md", "export.json"}


def test_unknown_gguf_type_suggests_a_near_one(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = save_adapter(tiny, tmp_path / "a", **KINDS["qkv"])
    assert main(["export", str(adapter), "--to", "gguf", "--type", "q9_0"]) == 2
    assert "id you mean 'q8_0'" in capsys.readouterr().err


def test_a_tokenizer_that_llama_cpp_lacks(tmp_path: Path) -> None:
    from tokenizers import pre_tokenizers

    from florilegium.errors import ModelError
    from tests.tiny import make_tokenizer

    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(ModelError, match="no pre-tokenizer that splits"):
        read_vocabulary(tokenizer, 400)
