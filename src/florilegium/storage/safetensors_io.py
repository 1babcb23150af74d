"""Safetensors in pieces: written without a copy of everything, read within bounds.

    8 bytes        length of the header, little endian
    header         JSON: {"name": {"dtype": "F32", "shape": [16, 64], "data_offsets": [0, 4096]}, ...}, padded with spaces to 8
    data           the tensors' bytes, one behind another, without a gap

The library (`safetensors.torch`) reads these files, ours too. It writes them by itself, out of sight: here each piece
passes through `atomic_folders.py`, which sums it as it goes, flushes it, and lets a test fail any of the writes. A
tensor is fetched from its device when its turn comes, so saving holds one tensor more than training does, and not a
second optimiser."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict

import torch

from florilegium.errors import ModelError
from florilegium.storage.strict_json import loads

DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64", torch.int32: "I32",
    torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
# the library allows 100 MB, which as JSON takes gigabytes; bloom-176b's adapters need 50 kB
MAX_HEADER_BYTES = 16 << 20


class TensorEntry(TypedDict):
    """A tensor in the header of a safetensors file: where its bytes begin and end, counted from the header's end."""

    dtype: str
    shape: list[int]
    data_offsets: list[int]


def tensor_bytes(tensors: Mapping[str, torch.Tensor]) -> int:
    """The size of the file's data, without its header."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def tensor_pieces(
    tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None
) -> Iterator[bytes | memoryview]:
    """The safetensors file of `tensors`, in pieces: header, then tensor by tensor."""
    # Widest numbers first, so that each tensor begins at a multiple of its size; then by name.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    start = 0
    for name in names:
        tensor = tensors[name]
        end = start + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    yield header_piece(header)
    for name in names:
        plain = tensors[name].detach().to("cpu").contiguous()
        if plain.numel():
            pieces: Any = plain.reshape(-1).view(torch.uint8).numpy()
            yield memoryview(pieces)


def header_piece(header: Mapping[str, object]) -> bytes:
    """How a safetensors file begins: the length of its header, and the header."""
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def read_header(path: Path, what: str) -> dict[str, TensorEntry]:
    """The header of a safetensors file: names to dtype and shape. Nothing else is read, and not more than
    MAX_HEADER_BYTES.

    Raises ModelError, which calls the file `what`, when it is not one or its header is too large.
    """
    fix = "Get it again from where it came"
    if path.exists() and not path.is_file():  # opening a FIFO would wait for its writer
        raise ModelError(f"{what} is not a file", fix)
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            prefix = file.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            if length > size - 8 or length < 2:
                raise ModelError(
                    f"{what} is incomplete: its header should have {length:,} bytes, and the file has {size:,}", fix
                )
            if length > MAX_HEADER_BYTES:
                raise ModelError(f"{what}: its header of {length:,} bytes is too large", fix)
            header = loads(file.read(length))
    except (OSError, ValueError, RecursionError):
        raise ModelError(f"{what} cannot be read: its header is not JSON", fix) from None
    if not isinstance(header, dict):
        raise ModelError(f"{what} cannot be read: its header is not a JSON object", fix)
    notes = header.pop("__metadata__", {})
    # the library refuses this too, and our own readers of weights open a file without it
    if not isinstance(notes, dict) or not all(isinstance(note, str) for note in notes.values()):
        raise ModelError(f"{what} cannot be read: its __metadata__ holds more than texts", fix)
    _check_header(header, size - 8 - length, what, fix)
    return header


def _check_header(header: Mapping[str, Any], num_bytes: int, what: str, fix: str) -> None:
    for name, entry in header.items():
        good = isinstance(entry, dict) and isinstance(entry.get("dtype"), str) and _is_sizes(entry.get("shape"))
        good = good and _is_sizes(entry.get("data_offsets")) and len(entry["data_offsets"]) == 2
        if not good:
            raise ModelError(f"{what}: its header does not describe {name[:80]!r} as a tensor", fix)
    end = 0
    for begin, stop in sorted(entry["data_offsets"] for entry in header.values()):
        if begin != end or stop < begin:
            raise ModelError(f"{what} is damaged: its tensors overlap, or leave bytes between them", fix)
        end = stop
    if end != num_bytes:
        raise ModelError(f"{what} is incomplete: its tensors take {end:,} bytes, and {num_bytes:,} are there", fix)


def _is_sizes(value: object) -> bool:
    return isinstance(value, list) and len(value) <= 8 and all(type(v) is int and 0 <= v < 1 << 62 for v in value)
