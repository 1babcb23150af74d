"""Kernels of int8 matmuls are compiled before they are needed, and not for a run that has ended."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")
pytest.importorskip("cuda.bindings", reason="cuda-bindings are not installed")

from florilegium.fast.hopper import int8_matmul
from florilegium.fast.hopper.tiling import TOKENS
from florilegium.fast.training import block_stack
from florilegium.fast.training.saved_activations import ActivationPlan
from florilegium.model import fast_paths as paths
from florilegium.model import load_base
from tests.tiny import save_tiny


@pytest.fixture
def nothing_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8_matmul, "_compiled", {})


@pytest.mark.usefixtures("nothing_compiled")
def test_what_failed_to_compile_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once where it is needed, whatever its thread met long before; the next time anew."""
    answers = [RuntimeError("no memory"), (b"code", ""), RuntimeError("no memory"), RuntimeError("no compiler")]

    def compiled(source: str) -> tuple[bytes, str]:
        answer = answers.pop(0)
        if isinstance(answer, RuntimeError):
            raise answer
        return answer

    monkeypatch.setattr(int8_matmul, "compile_source", compiled)
    assert int8_matmul._code(int8_matmul.Variant(True)) == (b"code", "")
    with pytest.raises(RuntimeError, match="no compiler"):
        int8_matmul._code(int8_matmul.Variant(True))
    assert not answers and not int8_matmul._compiled


def test_lengths_to_come_are_compiled_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the warm-up's own; of the first and the last block, which may differ in copies."""
    model = load_base(str(save_tiny(tmp_path / "bloom", layers=3)), bits=8, device=torch.device("cpu")).model
    asked: list[tuple[int, bool]] = []
    monkeypatch.setattr(
        block_stack, "compile_int8_matmuls", lambda linears, T, *, recompute: asked.append((T, recompute))
    )
    monkeypatch.setattr(block_stack, "warm_up", lambda stack: None)
    block_stack.BlockStack(model.transformer, ActivationPlan(blocks_full=1), torch.float32, [128, 640])
    assert asked == [(T, True) for T in (block_stack.WARM_UP_TOKENS, 128, 640) for _ in range(2)]


@pytest.mark.usefixtures("nothing_compiled")
def test_kernels_not_started_are_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter waits for what is under way, and for nothing else."""
    begun, ends, made = threading.Event(), threading.Event(), []

    def compiled(source: str) -> tuple[bytes, str]:
        begun.set()
        ends.wait(20)
        made.append(source)
        return b"code", ""

    monkeypatch.setattr(int8_matmul, "compile_source", compiled)
    with ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(int8_matmul, "_compilers", lambda: pool)
        first, *others = (int8_matmul.Variant(True, TOKENS=tokens) for tokens in TOKENS)
        for variant in (first, *others):
            int8_matmul._begin(variant)
        assert begun.wait(20)
        with paths.compiling_ahead():
            pass
        assert list(int8_matmul._compiled) == [first]
        ends.set()
        assert int8_matmul._code(others[0]) == (b"code", "")
    assert len(made) == 2
