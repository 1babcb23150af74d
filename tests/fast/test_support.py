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

from florilegium.fast import support
from florilegium.fast.decoding import weights
from florilegium.fast.decoding.state import StepInputs
from florilegium.fast.training import block_stack
from florilegium.model import load_base
from florilegium.model.families.bloom import bloom_model
from tests.tiny import save_tiny

CUDA = torch.device("cuda")


def model(folder: Path, bits: int = 8, head_dim: int = 16, **lora: Any) -> Any:
    base = load_base(str(save_tiny(folder / "m", head_dim=head_dim)), bits=bits, device=torch.device("cpu"))
    settings = {"r": 4, "target_modules": ["query_key_value"], "task_type": "CAUSAL_LM", **lora}
    return get_peft_model(base.model, LoraConfig(**settings))


def reasons(tuned: Any) -> set[str]:
    return {room.unsupported_reason(bloom_model(tuned), CUDA, torch.bfloat16) for room in (block_stack, weights)}


@pytest.mark.parametrize("bits", [8, 4])
def test_plain_lora_is_taken(tmp_path: Path, bits: int) -> None:
    assert reasons(model(tmp_path, bits)) == {""}


@pytest.mark.parametrize(
    ("lora", "reason"),
    [
        ({"target_modules": ["query_key_value", "word_embeddings"]}, "linears of blocks only"),
        ({"modules_to_save": ["ln_f"]}, "whole modules"),
        ({"lora_bias": True}, "not plain LoRA"),
    ],
    ids=str,
)
def test_what_would_be_passed_over_is_refused(tmp_path: Path, lora: dict[str, Any], reason: str) -> None:
    found = reasons(model(tmp_path, **lora))
    assert len(found) == 1 and reason in found.pop()


def test_other_shapes_and_states_are_refused(tmp_path: Path) -> None:
    merged = model(tmp_path / "a", bits=16)
    merged.merge_adapter()
    assert "not plain LoRA" in weights.unsupported_reason(bloom_model(merged), CUDA, torch.bfloat16)
    plain = model(tmp_path / "b", bits=16)
    assert weights.unsupported_reason(bloom_model(plain), CUDA, torch.bfloat16) == ""
    assert "8 or 4 bits" in block_stack.unsupported_reason(bloom_model(plain), CUDA, torch.bfloat16)
    assert "multiple of 64" in weights.unsupported_reason(
        bloom_model(model(tmp_path / "c", head_dim=8)), CUDA, torch.bfloat16
    )
    for room in (block_stack, weights):
        assert "CUDA" in room.unsupported_reason(bloom_model(plain), torch.device("cpu"), torch.bfloat16)
        assert "bfloat16" in room.unsupported_reason(bloom_model(plain), CUDA, torch.float32)
    mixed, other = (bloom_model(model(tmp_path / name, bits=bits)) for name, bits in (("d", 8), ("e", 4)))
    mixed.h[1].mlp.dense_4h_to_h = other.h[1].mlp.dense_4h_to_h
    assert "different precisions" in weights.unsupported_reason(mixed, CUDA, torch.bfloat16)


def test_the_inputs_of_a_step_lie_where_one_compilation_serves_them_all() -> None:
    """At multiples of 16 bytes: Triton compiles anew for a pointer that is not."""
    for M in (1, 4, 16, 30):
        inputs = StepInputs.make(M, min(M, 8), 5)
        views = [inputs.token, inputs.position, inputs.slot, inputs.place, inputs.sample_rows, inputs.sample_slots]
        places = [view.data_ptr() - inputs.memory.data_ptr() for view in (*views, inputs.listed)]
        assert all(place % 16 == 0 for place in places)
        assert all(b - a >= 4 * len(view) for view, a, b in zip(views, places, places[1:], strict=False))


def test_which_weights_the_int8_matmul_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large int8 weights, on a Hopper GPU, where CUDA's compiler is at hand."""
    whole = bloom_model(model(tmp_path / "a", head_dim=64))
    ours = whole.h[0].mlp.dense_h_to_4h
    assert (
        ours.out_features == 4 * ours.in_features == 1024
        and support.int8_matmul_unsupported_reason(ours) == "the weight is too small"
    )
    monkeypatch.setattr(support, "MIN_INT8_ELEMENTS", 1024 * 256)
    assert "Hopper" in support.int8_matmul_unsupported_reason(ours)
    monkeypatch.setattr(support, "is_hopper", lambda device: True)
    support._compiler_unsupported_reason.cache_clear()
    monkeypatch.setitem(sys.modules, "florilegium.fast.hopper.nvrtc", None)
    assert "cuda-bindings is not installed" in support.int8_matmul_unsupported_reason(ours)
    monkeypatch.setattr(support, "MIN_INT8_ELEMENTS", 0)
    assert "slower: cuda-bindings is not installed (pip install" in support.describe_int8_path(whole)
    support._compiler_unsupported_reason.cache_clear()
    monkeypatch.undo()
    assert support.describe_int8_path(whole) == ""
    monkeypatch.setattr(support, "int8_matmul_unsupported_reason", lambda module: "")
    assert support.describe_int8_path(whole) == "int8 matmul without dequantisation"
    monkeypatch.undo()
    narrow = bloom_model(model(tmp_path / "b", head_dim=16)).h[0].mlp.dense_h_to_4h
    assert "multiples of 128" in support.int8_matmul_unsupported_reason(narrow)
    nf4 = bloom_model(model(tmp_path / "c", bits=4, head_dim=64)).h[0].mlp.dense_h_to_4h
    assert "not int8" in support.int8_matmul_unsupported_reason(nf4)


def test_no_argument_of_a_kernel_hides_a_name_of_tritons_own() -> None:
    """Triton 3.6 generates a function with the kernel's arguments around it, in which these are variables."""
    import ast
    from pathlib import Path

    import florilegium

    taken = {"params", "specialization", "options", "grid", "warmup"}
    kernels = 0
    for path in (Path(florilegium.__file__).parent / "fast").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and any("jit" in ast.unparse(d) for d in node.decorator_list):
                kernels += 1
                assert not taken & {argument.arg for argument in node.args.args}, (path.name, node.name)
    assert kernels > 20
