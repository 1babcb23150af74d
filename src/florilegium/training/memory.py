"""How much memory the process has taken at most, in bytes, and how to tell that there is no more."""

from __future__ import annotations

import resource

import torch


def peak_memory(device: torch.device) -> int:
    """On CUDA what torch allocated there at most; on the CPU the process's largest resident size (Linux counts it in
    kB)."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: on the GPU torch says so by its own class, in Python it is a MemoryError, and torch's
    allocator on the CPU and CUDA's libraries raise a bare RuntimeError."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    said = str(error)
    return isinstance(error, RuntimeError) and any(
        mark in said for mark in ("can't allocate memory", "ALLOC_FAILED", "bad_alloc")
    )
