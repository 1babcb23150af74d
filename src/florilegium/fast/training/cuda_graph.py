"""A step without its launches: what a function asks of the GPU is recorded once a shape (a CUDA graph) and asked for
again in one call.

A step of bloom-7b1 on 16 quotes is 45 ms of work in 1,300 kernels, and Python needs 75 ms to launch them. Replayed,
they follow one another within a microsecond. The function must ask the device nothing back, and read and write the same
memory each time: `inputs` are copied into tensors that stay, and so must what it updates (the gradients). All shapes
share one pool of memory, so record the largest first.

    run = CudaGraphRunner(function, updates)     function(inputs: dict of tensors) -> tensor; `updates` are the tensors that it adds to
    loss = run(inputs)                           copied from pinned memory, replayed; the result is overwritten by the next call
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from florilegium.fast.recording import empty_cache, recorded, synchronize, undisturbed

Inputs = Mapping[str, torch.Tensor]


@dataclass
class _Recorded:
    """The inputs are views of one piece of memory, so that one copy from pinned memory fills them all."""

    graph: torch.cuda.CUDAGraph
    memory: torch.Tensor
    output: torch.Tensor

    def fill(self, inputs: Inputs) -> None:
        # Pinned anew each time: torch's allocator gives no pinned block out again while a copy from it is under way.
        staged = torch.empty(len(self.memory), dtype=torch.uint8, pin_memory=True)
        for name, view in _views(staged, inputs).items():
            view.copy_(inputs[name])
        self.memory.copy_(staged, non_blocking=True)


def _views(memory: torch.Tensor, inputs: Inputs) -> dict[str, torch.Tensor]:
    """Tensors like `inputs`, one after the other in `memory`, each at a multiple of 16 bytes."""
    views, offset = {}, 0
    for name, tensor in inputs.items():
        size = tensor.numel() * tensor.element_size()
        views[name] = memory[offset : offset + size].view(tensor.dtype).view(tensor.shape)
        # 16 bytes: what Triton specialises its loads by, and torch's views of wider types need
        offset += -(-size // 16) * 16
    return views


def _size(inputs: Inputs) -> int:
    return sum(-(-t.numel() * t.element_size() // 16) * 16 for t in inputs.values())


class CudaGraphRunner:
    def __init__(
        self, function: Callable[[dict[str, torch.Tensor]], torch.Tensor], updates: Sequence[torch.Tensor]
    ) -> None:
        self.function, self.updates = function, list(updates)
        self.pool: Any = None  # torch.cuda.graph_pool_handle's, whose type is private
        self.recorded: dict[tuple[tuple[str, tuple[int, ...]], ...], _Recorded] = {}

    def __call__(self, inputs: Inputs) -> torch.Tensor:
        key = tuple((name, tuple(t.shape)) for name, t in inputs.items())
        # shapes alone decide what is launched, and with which grids
        found = self.recorded.get(key)
        if found is None:
            found = self.recorded[key] = self._record(inputs)
        found.fill(inputs)
        found.graph.replay()
        return found.output

    def _record(self, inputs: Inputs) -> _Recorded:
        """Raises OutOfMemoryError with nothing recorded when the shape does not fit."""
        memory = torch.empty(_size(inputs), dtype=torch.uint8, device="cuda")
        here = _views(memory, inputs)
        for name, view in here.items():
            view.copy_(inputs[name])
        graph = torch.cuda.CUDAGraph()
        if self.pool is None:
            # Compilers and libraries prepare themselves on their first call, which cannot be recorded and must leave no
            # trace: what it added would be added again by the replay.
            before = [tensor.cpu() for tensor in self.updates]  # not on the device: its memory may be all but full
            self.function(here)
            for tensor, value in zip(self.updates, before, strict=True):
                tensor.copy_(value)
            synchronize()
            # What that call left cached would lie beside the pool, which takes the same again.
            empty_cache()
            self.pool = torch.cuda.graph_pool_handle()
        # All graphs allocate from one pool: no two are replayed at once, so their memory may overlap.
        with recorded(graph, self.pool):
            output = self.function(here)
        return _Recorded(graph, memory, output)

    def clear(self) -> None:
        """Gives the memory of all shapes back."""
        with undisturbed():  # a graph that goes gives memory back
            self.recorded.clear()
            self.pool = None
        empty_cache()
