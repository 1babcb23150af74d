"""How much memory the process has taken at most, in bytes."""

from __future__ import annotations

import torch

from florilegium.storage.platform import peak_resident_bytes


def peak_memory(device: torch.device) -> int:
    """On CUDA what torch allocated there at most; on the CPU the process's largest resident size."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return peak_resident_bytes()
