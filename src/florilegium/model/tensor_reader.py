"""Tensors of a safetensors file onto a device, at the speed of the bus.

A checkpoint of 14 GB that lies in the page cache reaches an H100 at 5.5 GB/s through one thread and pageable memory, and
at 21 GB/s through eight threads that each read a piece into pinned memory of their own and copy it from there. A weight
of bloom-7b1 in int8 is one piece to four: so while one tensor is waited for, the next ones are on their way. The header
has been checked before (`tensor_file.read_header`).

    with TensorReader(path, device) as reader:
        for name, tensor in reader.read_all(reader.names): ...
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch

from florilegium.errors import ModelError
from florilegium.storage.safetensors_io import DTYPES, read_header

PIECE_BYTES, THREADS = 16 << 20, 8
AHEAD = THREADS * PIECE_BYTES  # bytes of the tensors that are read while another is waited for: work for every thread
DTYPE_OF = {name: dtype for dtype, name in DTYPES.items()}


@dataclass
class _Lane:
    """A thread's own stream and pinned piece of memory; neither on the CPU, where a piece is read straight into its
    tensor."""

    stream: torch.cuda.Stream | None = None
    piece: torch.Tensor | None = None

    def pinned(self) -> torch.Tensor:
        """Made by the thread that needs it first: to lock pages takes the time of reading them."""
        if self.piece is None:
            self.piece = torch.empty(PIECE_BYTES, dtype=torch.uint8, pin_memory=True)
        return self.piece


@dataclass(frozen=True)
class _Reading:
    """A tensor whose pieces are on their way."""

    name: str
    tensor: torch.Tensor
    pieces: list[Future[None]]

    @property
    def size(self) -> int:
        return self.tensor.numel() * self.tensor.element_size()

    def done(self) -> tuple[str, torch.Tensor]:
        for piece in self.pieces:
            piece.result()
        return self.name, self.tensor


class TensorReader:
    def __init__(self, path: Path, device: torch.device) -> None:
        """Raises ModelError where the file is no whole safetensors file."""
        self.path, self.device = path, device
        self.header = read_header(path, path.name)
        self.names = sorted(self.header, key=lambda name: self.header[name]["data_offsets"][0])
        with path.open("rb") as file:
            self.begin = 8 + int.from_bytes(file.read(8), "little")
        self.lanes: SimpleQueue[_Lane] = SimpleQueue()
        for _ in range(THREADS):
            self.lanes.put(_lane_with_stream() if device.type == "cuda" else _Lane())
        self.pool = ThreadPoolExecutor(THREADS)
        self.file = os.open(path, os.O_RDONLY)

    def __enter__(self) -> TensorReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(cancel_futures=True)
        os.close(self.file)

    def read(self, name: str) -> torch.Tensor:
        """The tensor, whole, on the device. Raises ModelError where the file ends early, OSError where the disk
        fails."""
        ((_, tensor),) = self.read_all([name])
        return tensor

    def read_all(self, names: Iterable[str]) -> Iterator[tuple[str, torch.Tensor]]:
        """These tensors in turn, each as `read` gives it. Beside the one that is waited for at most AHEAD bytes of others
        are on the device, and none where it has no room for them."""
        waiting: deque[_Reading] = deque()
        for name in names:
            while waiting and not self._fits_beside(waiting, name):
                yield waiting.popleft().done()
            while (started := self._try_start(name, alone=not waiting)) is None:
                yield waiting.popleft().done()
            waiting.append(started)
        while waiting:
            yield waiting.popleft().done()

    def _fits_beside(self, waiting: deque[_Reading], name: str) -> bool:
        start, end = self.header[name]["data_offsets"]
        return sum(reading.size for reading in waiting) - waiting[0].size + end - start <= AHEAD

    def _try_start(self, name: str, *, alone: bool) -> _Reading | None:
        """None where memory is full of tensors that are waited for."""
        try:
            return self._start(name)
        except torch.OutOfMemoryError:
            if alone:
                raise
            return None

    def _start(self, name: str) -> _Reading:
        entry = self.header[name]
        dtype, (start, end) = DTYPE_OF.get(entry["dtype"]), entry["data_offsets"]
        if dtype is None or math.prod(entry["shape"]) * dtype.itemsize != end - start:
            raise ModelError(
                f"{self.path.name}: the size of {name} does not fit its shape or kind",
                "Get it again from where it came",
            )
        tensor = torch.empty(entry["shape"], dtype=dtype, device=self.device)
        flat = tensor.view(-1).view(torch.uint8)
        # Whoever had this memory before may still be reading it on the device.
        ready = torch.cuda.current_stream().record_event() if self.device.type == "cuda" else None
        places = range(0, len(flat), PIECE_BYTES)
        pieces = [
            self.pool.submit(self._piece, flat[place : place + PIECE_BYTES], self.begin + start + place, ready)
            for place in places
        ]
        return _Reading(name, tensor, pieces)

    def _piece(self, target: torch.Tensor, place: int, ready: torch.cuda.Event | None) -> None:
        lane = self.lanes.get()
        try:
            if lane.stream is None or ready is None:  # on the CPU
                self._fill(target, place)
                return
            with torch.cuda.stream(lane.stream):  # also the device of this thread, whose memory is locked
                piece = lane.pinned()[: len(target)]
                self._fill(piece, place)
                lane.stream.wait_event(ready)
                target.copy_(piece, non_blocking=True)
            lane.stream.synchronize()
        finally:
            self.lanes.put(lane)

    def _fill(self, target: torch.Tensor, place: int) -> None:
        bytes_there: Any = target.numpy()
        memory = memoryview(bytes_there)
        while len(memory):
            count = os.preadv(self.file, [memory], place)
            if count == 0:
                raise ModelError(
                    f"{self.path.name} ends before its last tensor does", "Get it again from where it came"
                )
            memory, place = memory[count:], place + count


def _lane_with_stream() -> _Lane:
    stream: Any = torch.cuda.Stream
    return _Lane(stream())
