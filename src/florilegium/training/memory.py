"""How much memory the process has taken at most, in bytes."""

from __future__ import annotations

import resource

import torch


def peak_memory(device: torch.device) -> int:
    """On CUDA what torch allocated there at most; on the CPU the process's largest resident size (Linux counts it in
    kB)."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
