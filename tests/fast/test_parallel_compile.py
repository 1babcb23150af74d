"""Kernels that are warmed up are compiled, all of them, and not run."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

import triton
import triton.language as tl
from triton.runtime.jit import JITFunction

from florilegium.fast.parallel_compile import compile_in_parallel


@triton.jit
def add_number(x, number, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]  # Triton gives its arguments their types
    place = tl.arange(0, BLOCK)
    tl.store(x + place, tl.load(x + place) + number)


def test_what_triton_was_is_there_again() -> None:
    run = JITFunction.run
    with pytest.raises(KeyError), compile_in_parallel():
        assert JITFunction.run is not run
        raise KeyError
    assert JITFunction.run is run


def test_other_threads_run_their_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    monkeypatch.setattr(JITFunction, "run", lambda kernel, *given, grid, warmup: called.append(warmup))
    with compile_in_parallel():
        JITFunction.run(add_number, grid=(1,), warmup=False)
        other = threading.Thread(target=lambda: JITFunction.run(add_number, grid=(1,), warmup=False))
        other.start()
        other.join()
    assert called == [True, False]


@pytest.mark.skipif(not hasattr(triton, "AsyncCompileMode"), reason="this Triton compiles one kernel after the other")
def test_each_kernels_call_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """By other threads; and one that fails is left to where it is called."""
    kernels: list[Any] = [SimpleNamespace(src=f"source {i}", metadata=i) for i in range(3)]
    kernels[2] = SimpleNamespace(result=lambda ready=kernels[2]: ready)  # what Triton gives before a kernel is compiled
    compiled: list[tuple[str, int, bool]] = []

    def launcher(src: str, metadata: int) -> None:
        compiled.append((src, metadata, threading.current_thread() is threading.main_thread()))
        if metadata == 1:
            raise OSError("no C compiler")

    monkeypatch.setattr(JITFunction, "run", lambda kernel, number, grid, warmup: kernels[number])
    monkeypatch.setattr(triton.runtime.driver, "_active", SimpleNamespace(launcher_cls=launcher))
    with compile_in_parallel():
        for number in (0, 1, 2, 1, 0):
            assert JITFunction.run(add_number, number, grid=(1,), warmup=False) is kernels[number]
        assert not compiled
    assert sorted(compiled) == [("source 0", 0, False), ("source 1", 1, False), ("source 2", 2, False)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_kernels_are_compiled_and_not_run() -> None:
    x = torch.zeros(64, device="cuda")
    kernel: Any = add_number
    compiled: list[int] = []
    triton.knobs.runtime.jit_post_compile_hook = lambda **told: compiled.append(1)
    try:
        with compile_in_parallel():
            for block in (16, 32, 64, 16):
                kernel[(1,)](x, 2.5, BLOCK=block)
        assert len(compiled) == 3 and (x == 0).all()
        for block in (16, 32, 64):
            kernel[(1,)](x, 2.5, BLOCK=block)
        assert len(compiled) == 3 and (x[:16] == 7.5).all() and (x[32:] == 2.5).all()
    finally:
        triton.knobs.runtime.jit_post_compile_hook = None
