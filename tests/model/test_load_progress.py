"""Who waits for a model is told how much of it is read: each byte once, to the last, in every width and family."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from florilegium.generation.tuned import load
from florilegium.model import load_base
from florilegium.model.shared_base import Bases
from florilegium.model.stage import Stage
from florilegium.runs.train import train
from tests.tiny import make_tokenizer

CPU = torch.device("cpu")
Heard = list[tuple[int, int]]


def weights_bytes(folder: Path) -> int:
    """The numbers of the file, without its header."""
    path = folder / "model.safetensors"
    return path.stat().st_size - 8 - int.from_bytes(path.read_bytes()[:8], "little")


def check(heard: Heard, folder: Path) -> None:
    done = [one for one, _ in heard]
    assert done == sorted(set(done)) and len(done) > 5, "each tensor is told once, and adds up"
    assert {total for _, total in heard} == {weights_bytes(folder)} == {done[-1]}


@pytest.mark.parametrize("bits", [32, 16, 8, 4])
def test_bytes_are_told_as_they_are_read(tiny: Path, bits: int) -> None:
    heard: Heard = []
    load_base(str(tiny), bits=bits, device=CPU, progress=lambda *count: heard.append(count))
    check(heard, tiny)


def test_of_another_family_too(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=len(tokenizer), **sizes, num_key_value_heads=2)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    heard: Heard = []
    load_base(str(tmp_path), bits=8, device=CPU, progress=lambda *count: heard.append(count))
    check(heard, tmp_path)


def test_a_part_of_a_model_is_not_told_as_the_whole(tiny: Path) -> None:
    heard: Heard = []
    stage = Stage(0, 1, 2)
    load_base(str(tiny), bits=32, device=CPU, stage=stage, progress=lambda *count: heard.append(count))
    assert heard == []


def test_a_trained_model_tells_of_its_base(tiny: Path, tmp_path: Path) -> None:
    settings = {"model": str(tiny), "bits": 32, "max_steps": 1, "device": "cpu", "verdict_texts": 0}
    run = train("sample", output=str(tmp_path / "run"), **settings).directory
    heard: Heard = []
    bases = Bases()
    load(run, device="cpu", bases=bases, progress=lambda *count: heard.append(count))
    check(heard, tiny)
    again: Heard = []
    load(run, device="cpu", bases=bases, progress=lambda *count: again.append(count))
    assert again == [], "its base is shared"
