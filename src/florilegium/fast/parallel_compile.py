"""Triton's kernels, compiled many at a time.

A kernel is compiled when it is first called, and the next one is called after it: 38 kernels of half a second each are
20 s of a first run in which one core works. So what is about to run for the first time is rehearsed: called once with
every kernel compiled and none run. Triton 3.6 has the call of each kernel compiled as well, by a C compiler when it is
first called (0.15 s each): that is done there too.

    with together():
        step(rows like the real ones)       what its kernels would have written holds anything; torch's own calls do run
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import triton
from triton.runtime.jit import JITFunction

ONE_AT_A_TIME = threading.Lock()


@contextmanager
def together() -> Iterator[None]:
    """Inside, this thread's calls of Triton's kernels compile them side by side and do not run them; at its end all are
    compiled. Other threads' calls are as ever. A Triton without such a mode compiles them one by one."""
    mode: Any = getattr(triton, "AsyncCompileMode", None)
    me = threading.get_ident()
    rehearsed: dict[int, Any] = {}
    with ONE_AT_A_TIME:
        run = JITFunction.run

        def only_compile(kernel: Any, *given: Any, grid: Any, warmup: bool, **more: Any) -> Any:
            mine = threading.get_ident() == me
            compiled = run(kernel, *given, grid=grid, warmup=warmup or mine, **more)
            if mine:
                rehearsed[id(compiled)] = compiled
            return compiled

        JITFunction.run = only_compile
        try:
            if mode is None:
                yield
                return
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                with mode(pool):
                    yield
                list(pool.map(_compile_the_call, rehearsed.values()))
        finally:
            JITFunction.run = run


def _compile_the_call(compiled: Any) -> None:
    """Leaves the compiled call in Triton's cache on disk. What fails here is tried again, and said, where the kernel is
    called."""
    with suppress(Exception):
        compiled = compiled.result() if hasattr(compiled, "result") else compiled  # compiled side by side, or long ago
        triton.runtime.driver.active.launcher_cls(compiled.src, compiled.metadata)
