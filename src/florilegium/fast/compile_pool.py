"""Threads that compile kernels, and how many of those they were given are done: for who waits.

    with CompilePool(8, "triton") as pool: pool.submit(compile, source)
    compiled_so_far()                       (27, 38)

The compilers work outside Python's lock, so threads are enough."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

Given = ParamSpec("Given")
Result = TypeVar("Result")
_lock = threading.Lock()
_counts = [0, 0]  # of this process: done, started


class CompilePool(ThreadPoolExecutor):
    """A pool whose tasks are counted, one that fails or is cancelled as done."""

    def submit(  # type: ignore[override]  # typeshed names its arguments by position alone
        self, task: Callable[Given, Result], *given: Given.args, **named: Given.kwargs
    ) -> Future[Result]:
        _count(started=1)
        try:
            future = super().submit(task, *given, **named)
        except BaseException:  # no thread could be started, or the pool is closed
            _count(done=1)
            raise
        future.add_done_callback(lambda _: _count(done=1))
        return future


def _count(done: int = 0, started: int = 0) -> None:
    with _lock:
        _counts[0] += done
        _counts[1] += started


def compiled_so_far() -> tuple[int, int]:
    """Kernels that are compiled in this process, and all that were asked for until now."""
    with _lock:
        return _counts[0], _counts[1]
