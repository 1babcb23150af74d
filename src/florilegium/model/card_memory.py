"""What is free on the card of this process, asked of the driver and of torch when it is needed.

A run under `--gpu-memory-limit` asks for what its limit leaves, too: what writes its texts takes no more than the run may.

The driver does not count what torch's allocator holds and no tensor lies in: a process that had another model before
has gigabytes of it, and the next tensors take them first."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import torch

from florilegium.model.gpus import DRIVER, GIB, PCIE, USABLE, Gpu, find_by_device_name

_limit: ContextVar[float | None] = ContextVar("GiB of the card that tensors may take", default=None)


@contextlib.contextmanager
def memory_limit(gib: float | None) -> Iterator[None]:
    """Inside, `free_memory` counts no more than that (None: all) as this process's share of the card."""
    token = _limit.set(gib)
    try:
        yield
    finally:
        _limit.reset(token)


def free_memory() -> int:
    """Bytes of the current CUDA device that tensors of this process can still take."""
    free, _ = torch.cuda.mem_get_info()
    allocated = torch.cuda.memory_allocated()
    room = int(free) + torch.cuda.memory_reserved() - allocated
    limit = _limit.get()
    return min(room, max(0, int(limit * GIB) - allocated)) if limit else room


def usable_memory() -> int:
    """The same, without what goes to the driver's context, libraries' workspaces, and pieces that do not fit together."""
    return int(USABLE * free_memory())


def this_card() -> Gpu:
    """The card of this machine, with what is free on it now."""
    name, capability = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
    known = find_by_device_name(name)
    rates = (None, None) if known is None else (known.tflops, known.bandwidth)
    link = PCIE.get(capability[0]) if known is None else known.link
    return Gpu(name, int(free_memory() + DRIVER), *rates, capability, link)
