"""What is told of writing: keys and values held to those that a model keeps, and what to do where texts do not fit."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from florilegium.cli.main import main
from florilegium.config import SamplingSettings
from florilegium.runs.estimate_generation import PROMPT_TOKENS, cached_numbers
from tests.model.small_families import FAMILIES, make_model
from tests.runs.test_estimate import folder_of
from tests.tiny import make_bloom

OWN_STATE = ("LFM2", "RecurrentGemma")  # some of their blocks keep no keys and values


@pytest.fixture
def bloom(tmp_path: Path) -> Path:
    return folder_of("bloom-7b1", tmp_path)


def told(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 0) -> str:
    assert main(["estimate", "--for", "generate", *argv]) == code
    out, err = capsys.readouterr()
    return out if code == 0 else err


@pytest.mark.parametrize("name", sorted({"BLOOM", *FAMILIES} - set(OWN_STATE)))
def test_keys_and_values_are_those_that_the_model_keeps(name: str) -> None:
    model = make_bloom() if name == "BLOOM" else make_model(name)
    cache = model(torch.arange(4, 7)[None], use_cache=True).past_key_values
    layer = cache.layers[0]
    assert layer.keys.numel() + layer.values.numel() == 3 * cached_numbers(model.config)


def test_heads_need_not_be_their_share_of_the_width(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Qwen3-0.6B was told half of what it keeps, and Gemma 3 with its vision ended in a traceback."""
    text = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 4}
    gemma = {"model_type": "gemma3_text", "vocab_size": 1000, "head_dim": 256, "num_key_value_heads": 2, **text}
    vision = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    folder = tmp_path / "gemma"
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps({"model_type": "gemma3", "text_config": gemma, "vision_config": vision})
    )
    found = json.loads(told(capsys, "--model", str(folder), "--gpu", "T4", "--batch", "8", "--json"))["generation"]
    places = 8 * (PROMPT_TOKENS + SamplingSettings().max_new_tokens)
    assert found["cache_bytes"] == 2 * 3 * 2 * 2 * 256 * places


def test_what_does_not_fit_is_told_with_what_would(
    bloom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And what is told works."""
    said = told(capsys, "--model", str(bloom), "--gpu", "24", "--batch", "6400", code=5)
    fewer = re.search(r"6,400 texts at once do not fit: .* Use --batch (\d+): the others", said)
    assert fewer, said
    most = int(fewer[1])
    assert told(capsys, "--model", str(bloom), "--gpu", "24", "--batch", str(most))
    assert told(capsys, "--model", str(bloom), "--gpu", "24", "--batch", str(most + 1), code=5)
    said = told(capsys, "--model", str(bloom), "--gpu", "8", code=5)
    assert "1 text at once does not fit" in said and "Use --batch 1 with --bits 4" in said
    assert told(capsys, "--model", str(bloom), "--gpu", "8", "--bits", "4")
    giant = folder_of("bloom-176b", tmp_path)
    said = told(capsys, "--model", str(giant), "--gpu", "8", code=5)
    assert "a card of 140 GB (H200) with --bits 4" in said
    assert told(capsys, "--model", str(giant), "--gpu", "H200", "--bits", "4")


def test_a_base_that_is_stored_in_8_bits_is_not_sent_to_4(bloom: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = json.loads((bloom / "config.json").read_text())
    values["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    (bloom / "config.json").write_text(json.dumps(values))
    said = told(capsys, "--model", str(bloom), "--gpu", "8", code=5)
    assert "a card of 10 GB (RTX 3080)" in said and "--bits" not in said


def test_what_says_nothing_about_it_is_refused(bloom: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--batch 64` of a training was taken for nothing, and 16 rows a step estimated."""
    assert main(["estimate", "--model", str(bloom), "--gpu", "24", "--batch", "64"]) == 2
    assert "Use --batch-size for the rows of a training step" in capsys.readouterr().err
    assert "--gpus is for training" in told(capsys, "--model", str(bloom), "--gpu", "24", "--gpus", "2", code=2)
    assert "It takes a number from 1" in told(capsys, "--model", str(bloom), "--gpu", "24", "--batch", "0", code=2)


def test_on_a_processor_the_process_itself_counts(capsys: pytest.CaptureFixture[str]) -> None:
    """One text of the demo model takes 0.54 GiB; 0.1 was said."""
    found = json.loads(told(capsys, "--device", "cpu", "--bits", "4", "--json"))["generation"]
    assert 0.54 <= found["needed_bytes"] / 2**30 < 0.65
