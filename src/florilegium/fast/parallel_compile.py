"""Triton's kernels, compiled many at a time.

A kernel is compiled when it is first called, and the next one is called after it: 38 kernels of half a second each are
20 s of a first run in which one core works. So what is about to run for the first time is warmed up: called once with
every kernel compiled and none run. Triton 3.6 has the call of each kernel compiled as well, by a C compiler when it is
first called (0.15 s each): that is done there too.

    with compile_in_parallel():
        step(rows like the real ones)       what its kernels would have written holds anything; torch's own calls do run
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import triton
from triton.runtime.jit import JITFunction

from florilegium.fast.compile_pool import CompilePool

ONE_AT_A_TIME = threading.Lock()  # a second thread would take the first one's stand-in for Triton's own method


@contextmanager
def compile_in_parallel() -> Iterator[None]:
    """Inside, this thread's calls of Triton's kernels compile them side by side and do not run them; at its end all are
    compiled. Other threads' calls are as ever. A Triton without such a mode compiles them one by one."""
    mode: Any = getattr(triton, "AsyncCompileMode", None)  # newer Tritons have it
    me = threading.get_ident()
    warmed_up: dict[int, Any] = {}
    with ONE_AT_A_TIME:
        run = JITFunction.run

        def only_compile(kernel: Any, *given: Any, grid: Any, warmup: bool, **more: Any) -> Any:
            # The patch is on the class, so other threads come through here too: theirs run.
            mine = threading.get_ident() == me
            compiled = run(kernel, *given, grid=grid, warmup=warmup or mine, **more)
            if mine:
                warmed_up[id(compiled)] = compiled  # by id: a kernel may be called for each of 30 blocks
            return compiled

        JITFunction.run = only_compile
        try:
            if mode is None:
                yield
                return
            with CompilePool(os.cpu_count()) as pool:
                with mode(pool):
                    yield
                list(pool.map(_compile_launcher, warmed_up.values()))
        finally:
            JITFunction.run = run


def _compile_launcher(compiled: Any) -> None:  # Any: a kernel, or a promise of one: Triton's private types
    """Leaves the compiled call in Triton's cache on disk. What fails here is tried again, and said, where the kernel is
    called."""
    with suppress(Exception):
        compiled = compiled.result() if hasattr(compiled, "result") else compiled  # compiled side by side, or long ago
        triton.runtime.driver.active.launcher_cls(compiled.src, compiled.metadata)
