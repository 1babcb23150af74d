"""A GGUF file in pieces: header and metadata by gguf's own writer, then tensor by tensor, each padded to 32 bytes.

The pieces pass through `storage/atomic_folders.py`, which sums and flushes them: nothing of the model is in memory but
the rows at hand, and no second copy of it on disk."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from florilegium.export.gguf_types import import_gguf

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType, GGUFWriter

ALIGNMENT = 32

Numbers = Callable[[], Iterator[torch.Tensor]]  # a tensor's rows in float32, in pieces


@dataclass(frozen=True)
class GgufTensor:
    """A tensor to come: its name and type in the file, its shape as in torch, and its numbers."""

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    numbers: Numbers

    @property
    def nbytes(self) -> int:
        gguf = import_gguf()
        block, size = gguf.GGML_QUANT_SIZES[self.kind]
        return math.prod(self.shape) // int(block) * int(size)


def new_writer(architecture: str) -> GGUFWriter:
    """gguf's writer, whose header is kept in memory."""
    gguf = import_gguf()

    class InMemory(gguf.GGUFWriter):  # type: ignore[misc, name-defined]
        def open_output_file(self, path: object = None) -> None:
            self.fout = [io.BytesIO()]
            self.state = gguf.gguf_writer.WriterState.EMPTY

        def close(self) -> None:  # its destructor flushes what is a buffer here
            self.fout = None  # type: ignore[assignment]

    return InMemory(None, architecture)


def gguf_pieces(writer: GGUFWriter, tensors: list[GgufTensor]) -> Iterator[bytes | memoryview]:
    """The whole file. `writer` has its metadata already."""
    gguf = import_gguf()
    for tensor in tensors:
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), tensor.nbytes, raw_dtype=tensor.kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    buffers: Any = writer.fout
    header = buffers[0].getvalue()
    writer.close()
    yield header + bytes(-len(header) % ALIGNMENT)
    for tensor in tensors:
        for rows in tensor.numbers():
            numbers: Any = np.ascontiguousarray(gguf.quants.quantize(rows.float().numpy(), tensor.kind))
            yield memoryview(numbers.reshape(-1).view(np.uint8))
        if padding := -tensor.nbytes % ALIGNMENT:
            yield bytes(padding)


def gguf_bytes(tensors: list[GgufTensor]) -> int:
    """About the size of the file."""
    return sum(tensor.nbytes + ALIGNMENT for tensor in tensors) + (64 << 20)
