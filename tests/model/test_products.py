"""Weights that a token is multiplied by, and what they take in memory, of every family: told from config.json alone,
held to the model that is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from florilegium.config import TrainConfig
from florilegium.model import load_base
from florilegium.model.skeleton import read_skeleton
from florilegium.runs.plan_time import sizes_of
from tests.model.small_families import FAMILIES, make_model
from tests.runs.test_estimate import held_bytes
from tests.tiny import make_tokenizer


def saved(name: str, folder: Path) -> Path:
    make_model(name).to(torch.bfloat16).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_int8_weights_take_what_was_said(name: str, tmp_path: Path) -> None:
    """The Conv1D of GPT-2 is quantised as a linear is, a mixture's experts and Falcon's linears are not."""
    folder = saved(name, tmp_path / "model")
    base = load_base(str(folder), bits=8, device=torch.device("cpu"))
    skeleton = read_skeleton(TrainConfig(model=str(folder)))
    assert skeleton.base_bytes(8) == pytest.approx(held_bytes(base.model), rel=0.01)
    assert skeleton.product_parameters == sizes_of(base).product_parameters


@pytest.mark.parametrize(
    ("name", "products"),
    [
        # two blocks of 32 x (96 + 32 + 128 + 128), and the head
        ("GPT-2", 2 * 32 * 384 + 400 * 32),
        # two blocks of attention (32 x 96), and of two experts with three matrices 32 x 48 the one that is chosen
        ("Mixtral", 2 * (32 * 96 + 3 * 32 * 48) + 400 * 32),
        ("Qwen3-MoE", 2 * (32 * 96 + 2 * 3 * 32 * 16) + 400 * 32),
    ],
)
def test_a_token_goes_through_all_that_is_chosen_for_it(name: str, products: int, tmp_path: Path) -> None:
    skeleton = read_skeleton(TrainConfig(model=str(saved(name, tmp_path / "model"))))
    assert skeleton.product_parameters == products
    assert (skeleton.unquantised > 0) == (name != "GPT-2")


def test_a_download_in_few_bits_is_as_large_as_they_are(tmp_path: Path) -> None:
    """Where nobody can be asked: of a 4-bit checkpoint it was said to be four times as much."""
    folder = saved("Llama", tmp_path / "model")
    plain = read_skeleton(TrainConfig(model=str(folder), bits=4))
    (folder / "model.safetensors").unlink()
    text = (folder / "config.json").read_text()
    stored = (
        '{"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "nf4"},'
    )
    (folder / "config.json").write_text(stored + text[1:])
    found = read_skeleton(TrainConfig(model=str(folder), bits=4)).download
    assert not found.known and found.total == plain.base_bytes(4)
