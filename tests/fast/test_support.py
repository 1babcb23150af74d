"""Models and adapters that the kernels of whole blocks would compute wrongly are refused, each with its reason. No GPU
is needed to ask."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from peft import LoraConfig, get_peft_model

from florilegium.fast import support as obstacles
from florilegium.fast.decoding import weights as stored
from florilegium.fast.decoding.state import Inputs
from florilegium.fast.training import block_stack as trunk
from florilegium.model import load_base
from florilegium.model.families.bloom import bloom_model
from tests.tiny import save_tiny

CUDA = torch.device("cuda")


def model(folder: Path, bits: int = 8, head_dim: int = 16, **lora: Any) -> Any:
    base = load_base(str(save_tiny(folder / "m", head_dim=head_dim)), bits=bits, device=torch.device("cpu"))
    settings = {"r": 4, "target_modules": ["query_key_value"], "task_type": "CAUSAL_LM", **lora}
    return get_peft_model(base.model, LoraConfig(**settings))


def reasons(tuned: Any) -> set[str]:
    return {room.obstacle(bloom_model(tuned), CUDA, torch.bfloat16) for room in (trunk, stored)}


@pytest.mark.parametrize("bits", [8, 4])
def test_plain_lora_is_taken(tmp_path: Path, bits: int) -> None:
    assert reasons(model(tmp_path, bits)) == {""}


@pytest.mark.parametrize(
    ("lora", "reason"),
    [
        ({"target_modules": ["query_key_value", "word_embeddings"]}, "query_key_value alone"),
        ({"target_modules": ["query_key_value", "dense_h_to_4h"]}, "query_key_value alone"),
        ({"modules_to_save": ["ln_f"]}, "whole modules"),
        ({"lora_bias": True}, "no plain LoRA"),
    ],
    ids=str,
)
def test_what_would_be_passed_over_is_refused(tmp_path: Path, lora: dict[str, Any], reason: str) -> None:
    found = reasons(model(tmp_path, **lora))
    assert len(found) == 1 and reason in found.pop()


def test_other_shapes_and_states_are_refused(tmp_path: Path) -> None:
    merged = model(tmp_path / "a", bits=16)
    merged.merge_adapter()
    assert "no plain LoRA" in stored.obstacle(bloom_model(merged), CUDA, torch.bfloat16)
    plain = model(tmp_path / "b", bits=16)
    assert stored.obstacle(bloom_model(plain), CUDA, torch.bfloat16) == ""
    assert "8 or 4 bits" in trunk.obstacle(bloom_model(plain), CUDA, torch.bfloat16)
    assert "multiple of 64" in stored.obstacle(bloom_model(model(tmp_path / "c", head_dim=8)), CUDA, torch.bfloat16)
    for room in (trunk, stored):
        assert "CUDA" in room.obstacle(bloom_model(plain), torch.device("cpu"), torch.bfloat16)
        assert "bfloat16" in room.obstacle(bloom_model(plain), CUDA, torch.float32)
    mixed, other = (bloom_model(model(tmp_path / name, bits=bits)) for name, bits in (("d", 8), ("e", 4)))
    mixed.h[1].mlp.dense_4h_to_h = other.h[1].mlp.dense_4h_to_h
    assert "different forms" in stored.obstacle(mixed, CUDA, torch.bfloat16)


def test_the_inputs_of_a_step_lie_where_one_compilation_serves_them_all() -> None:
    """At multiples of 16 bytes: Triton compiles anew for a pointer that is not."""
    for M in (1, 4, 16, 30):
        inputs = Inputs.make(M, min(M, 8))
        places = [
            view.data_ptr() - inputs.memory.data_ptr()
            for view in (inputs.token, inputs.place, inputs.slot, inputs.wanted)
        ]
        assert all(place % 16 == 0 for place in places) and all(
            b - a >= 4 * M for a, b in zip(places, places[1:], strict=False)
        )


def test_what_is_read_as_it_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large int8 weights, on a Hopper GPU, where CUDA's compiler is at hand."""
    whole = bloom_model(model(tmp_path / "a", head_dim=64))
    ours = whole.h[0].mlp.dense_h_to_4h
    assert ours.out_features == 4 * ours.in_features == 1024 and obstacles.stored_obstacle(ours) == "it is small"
    monkeypatch.setattr(obstacles, "SMALLEST", 1024 * 256)
    assert "Hopper" in obstacles.stored_obstacle(ours)
    monkeypatch.setattr(obstacles, "is_hopper", lambda device: True)
    obstacles._compiler_obstacle.cache_clear()
    monkeypatch.setitem(sys.modules, "florilegium.fast.hopper.nvrtc", None)
    assert "no cuda-bindings" in obstacles.stored_obstacle(ours)
    monkeypatch.setattr(obstacles, "SMALLEST", 0)
    assert "slower: there is no cuda-bindings (pip install" in obstacles.say_products(whole)
    obstacles._compiler_obstacle.cache_clear()
    monkeypatch.undo()
    assert obstacles.say_products(whole) == ""
    monkeypatch.setattr(obstacles, "stored_obstacle", lambda module: "")
    assert obstacles.say_products(whole) == "int8 multiplied as it is stored"
    monkeypatch.undo()
    narrow = bloom_model(model(tmp_path / "b", head_dim=16)).h[0].mlp.dense_h_to_4h
    assert "multiples of 128" in obstacles.stored_obstacle(narrow)
    nf4 = bloom_model(model(tmp_path / "c", bits=4, head_dim=64)).h[0].mlp.dense_h_to_4h
    assert "no int8" in obstacles.stored_obstacle(nf4)
