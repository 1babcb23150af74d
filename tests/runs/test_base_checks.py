"""Bases that people bring: each is trained and read rightly, or refused or spoken of in one line before a run begins."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedTokenizerFast

import florilegium
from florilegium.cli.main import main
from florilegium.errors import FlorilegiumError, ModelError, UsageError
from florilegium.runs.recorder import NullView
from tests.tiny import make_tokenizer, save_tiny


class Heard(NullView):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return written(tmp_path / "rows.jsonl", ["sea", "home", "river", "boat", "hope", "time"])


def written(path: Path, words: list[str], long: str = "") -> Path:
    texts = [{"quote": f"Be kind to the {a}, {b}.{long}", "tags": [a]} for a in words for b in words[:3]]
    path.write_text("".join(json.dumps(row) + "\n" for row in texts))
    return path


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., tuple[Any, str]]:
    """A run of two steps, and what was said."""

    def trained(model: Path, rows: Path, **settings: Any) -> tuple[Any, str]:
        view = Heard()
        given = {"max_steps": 2, "bits": 32, "split_by": "random", "device": "cpu", "verdict_texts": 0, **settings}
        given = {name: value for name, value in given.items() if value is not None}
        try:
            done = florilegium.train(rows, model=str(model), output=str(tmp_path / "run"), view=view, **given)
        except FlorilegiumError:
            assert not (tmp_path / "run").exists(), "refused after its folder was made"
            raise
        return done, "\n".join(view.lines)

    return trained


def stored(tiny: Path, folder: Path, bits: int) -> Path:
    """A checkpoint as those on the Hub that are quantised already."""
    kind = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"} if bits == 4 else {"load_in_8bit": True}
    quantization = BitsAndBytesConfig(**kind)  # type: ignore[arg-type]
    model = AutoModelForCausalLM.from_pretrained(tiny, quantization_config=quantization, device_map={"": "cpu"})
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantised_base_keeps_its_bits(
    train: Any, rows: Path, tmp_path: Path, bits: int, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = stored(save_tiny(tmp_path / "whole", heads=4, head_dim=16), tmp_path / "stored", bits)
    done, said = train(folder, rows, bits=None)  # nobody asked for the default, 8
    linear = done.tuned.model.base_model.model.transformer.h[0].mlp.dense_h_to_4h
    assert type(linear).__name__ == {4: "Linear4bit", 8: "Linear8bitLt"}[bits]
    assert done.tuned.base.bits == bits
    assert f"\nbits: {bits} " in (done.directory / "config.yaml").read_text()
    assert json.loads((done.directory / "adapter" / "florilegium.json").read_text())["bits"] == bits
    assert f"frozen in {bits} bits" in (done.directory / "adapter" / "README.md").read_text()
    assert (f"it stays in its {bits} bits" in said) == (bits != 8)
    text = done.tuned.generate("Be kind", temperature=0.0, max_new_tokens=6)[0].text
    assert florilegium.load(done.directory).generate("Be kind", temperature=0.0, max_new_tokens=6)[0].text == text
    for other in {4, 8, 16, 32} - {bits}:
        with pytest.raises(UsageError, match=f"is stored in {bits} bits"):
            florilegium.load(done.directory, bits=other)
        with pytest.raises(UsageError, match=f"is stored in {bits} bits"):
            florilegium.train(rows, model=str(folder), output=str(tmp_path / "other"), bits=other, device="cpu")
        command = [
            "train",
            str(rows),
            "--model",
            str(folder),
            "--bits",
            str(other),
            "--output",
            str(tmp_path / "other"),
        ]
        assert main(command) == 2
        assert f"is stored in {bits} bits, and --bits is {other}. Leave --bits out" in capsys.readouterr().err
        assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("command", [["estimate"], ["estimate", "--for", "generate"], ["train", "--dry-run"]])
def test_what_a_quantised_base_will_take_is_told_of_its_own_bits(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str], bits: int
) -> None:
    folder = stored(save_tiny(tmp_path / "whole", heads=4, head_dim=16), tmp_path / "stored", bits)
    given = [command[0], str(rows), *command[1:], "--model", str(folder), "--device", "cpu"]
    for asked in ([], ["--bits", str(bits)]):
        assert main([*given, *asked, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["bits"] == bits and {option["bits"] for option in found["options"]} == {bits}
    for other in {4, 8, 16, 32} - {bits}:
        assert main([*given, "--bits", str(other)]) == 2
        assert f"is stored in {bits} bits, and --bits is {other}. Leave --bits out" in capsys.readouterr().err


def family(folder: Path, kind: str, **shape: Any) -> Path:
    """A small random model of a family of Transformers, with the tiny tokenizer."""
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=400, bos_token_id=1, eos_token_id=2, pad_token_id=3, **shape
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


LEARNED = {
    "GPT2": {"n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 48},
    "OPT": {
        "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "ffn_dim": 64, "word_embed_proj_dim": 32,
        "max_position_embeddings": 48,
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", LEARNED)
def test_learned_positions_end(train: Any, tmp_path: Path, kind: str) -> None:
    """Rows are cut where they end and the note says where; texts end there too."""
    rows = written(tmp_path / "rows.jsonl", ["sea", "home", "river", "boat"], long=" And the rain" * 12)
    done, said = train(family(tmp_path / "model", kind, **LEARNED[kind]), rows)
    assert "shortened to 48 tokens (the model has no more positions)" in said
    (row,) = done.tuned.generate("Be kind", max_new_tokens=200, seed=1)
    assert row.text == "".join(done.tuned.stream("Be kind", max_new_tokens=200, seed=1)) and len(row.text) > len(
        "Be kind"
    )
    with pytest.raises(UsageError, match="reads 48"):
        done.tuned.generate("Be kind to the sea " * 30, max_new_tokens=2)


def test_families_without_a_cache_are_refused_first(train: Any, rows: Path, tmp_path: Path) -> None:
    shapes = {
        "Rwkv": {"hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32},
        "OpenAIGPT": {"n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 64},
    }
    for kind, shape in shapes.items():
        with pytest.raises(ModelError, match="cannot be trained here: its forward pass keeps no cache"):
            train(family(tmp_path / kind, kind, **shape), rows)


def test_a_prompt_of_nothing_but_the_end(train: Any, rows: Path, tiny: Path) -> None:
    done, _ = train(tiny, rows)
    for prompt in ("</s>", " </s> "):
        with pytest.raises(UsageError, match="nothing but the end-of-text token"):
            done.tuned.generate(prompt)
        with pytest.raises(UsageError, match="nothing but the end-of-text token"):
            list(done.tuned.stream(prompt))
    assert done.tuned.generate("<pad>", max_new_tokens=2)


def word_level(folder: Path, lower: bool) -> Path:
    """A tokenizer of whole words, which knows few of them or keeps no mark."""
    words = ["Be kind to the sea , -> : . home river"]
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace() if lower else pre_tokenizers.Metaspace(split=True)
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    tokenizer.train_from_iterator(words, trainers.WordLevelTrainer(special_tokens=special))
    if not lower:
        from tokenizers import decoders

        tokenizer.decoder = decoders.Metaspace()
        tokenizer.add_tokens([" ->:", "."])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    ).save_pretrained(folder)
    return folder


def test_a_tokenizer_that_gives_no_text_back_is_refused(train: Any, rows: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not round-trip text"):
        train(word_level(save_tiny(tmp_path / "model"), lower=True), rows)


def test_unknown_words_are_counted(train: Any, rows: Path, tmp_path: Path) -> None:
    _, said = train(word_level(save_tiny(tmp_path / "model"), lower=False), rows)
    assert "of these tokens: they become <unk>" in said


def test_an_end_inside_a_row_is_named(train: Any, tiny: Path, rows: Path) -> None:
    lines = rows.read_text().splitlines()
    lines[4] = lines[4].replace("kind", "</s> kind")
    rows.write_text("\n".join(lines) + "\n")
    _, said = train(tiny, rows, held_out=0.0)
    assert "1 row with '</s>' inside (first: rows.jsonl:5): the model learns to stop there" in said


def test_dropout_of_attention_is_spoken_of(train: Any, tmp_path: Path, rows: Path) -> None:
    folder = save_tiny(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "attention_dropout": 0.1}))
    _, said = train(folder, rows)
    assert "attention_dropout 0.1 of the model's config.json is not applied" in said
