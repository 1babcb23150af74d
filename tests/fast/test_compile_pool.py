"""How many kernels are compiled, for who waits: one that fails or is left is done with, too."""

from __future__ import annotations

import threading

import pytest

from florilegium.fast.compile_pool import CompilePool, compiled_so_far
from florilegium.model import fast_paths


def test_what_is_started_and_done_is_counted() -> None:
    done_before, started_before = fast_paths.compiled_so_far()
    go = threading.Event()
    with CompilePool(1) as pool:
        first, failing, left = pool.submit(go.wait, 60), pool.submit(int, "no number"), pool.submit(int, "5")
        assert compiled_so_far() == (done_before, started_before + 3)
        assert left.cancel()
        assert compiled_so_far() == (done_before + 1, started_before + 3)
        go.set()
        assert first.result(60)
        with pytest.raises(ValueError, match="no number"):
            failing.result(60)
    assert fast_paths.compiled_so_far() == (done_before + 3, started_before + 3)
    with pytest.raises(RuntimeError):
        pool.submit(int, "5")
    done, started = compiled_so_far()
    assert done == started
