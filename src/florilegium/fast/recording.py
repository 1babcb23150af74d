"""The recording of a CUDA graph, undisturbed by what else goes on in the process.

Four things end a recording with "operation failed due to a previous error during capture", each at a place of chance:
Python's garbage collector, which may give back an older graph's memory meanwhile; a second recording, since torch makes
all of them on one stream; a thread that waits for the whole device; and one that empties torch's cache of memory. So
there is one recording at a time, the collector waits, and so do `synchronize` and `empty_cache`."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator
from typing import Any, cast

import torch

_ONE_AT_A_TIME = threading.Lock()


@contextlib.contextmanager
def recorded(graph: torch.cuda.CUDAGraph, pool: object) -> Iterator[None]:
    """Records into `graph` what the block asks of the device; `pool` is `torch.cuda.graph_pool_handle`'s, or None."""
    with _ONE_AT_A_TIME:
        # it may be off already: a caller's choice stays
        collects = gc.isenabled()
        gc.disable()
        try:
            # thread_local: another thread may load, write or allocate meanwhile
            with torch.cuda.graph(graph, pool=cast(Any, pool), capture_error_mode="thread_local"):
                yield
        finally:
            # not before: what is garbage now may hold a graph
            if collects:
                gc.enable()


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Inside, nothing is recorded."""
    with _ONE_AT_A_TIME:
        yield


def synchronize() -> None:
    """`torch.cuda.synchronize`, when nothing is being recorded: the whole device has the recording's stream too."""
    with _ONE_AT_A_TIME:
        torch.cuda.synchronize()


def empty_cache() -> None:
    """`torch.cuda.empty_cache`, when nothing is being recorded."""
    # it waits for the device and gives memory back, neither of which a recording survives
    with _ONE_AT_A_TIME:
        torch.cuda.empty_cache()
