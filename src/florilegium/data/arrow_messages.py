"""How large the record batches of an Arrow file or stream are, before pyarrow decodes any of them.

    FFFFFFFF  length of the metadata (4 bytes)  metadata  body      ... once for the schema, each dictionary, each batch
    "ARROW1"  messages as above ...  footer: where each lies  its length (4 bytes)  "ARROW1"                 (a file)

The metadata is a Flatbuffers table, Arrow's `format/Message.fbs`; the numbers below are those of its fields. A body that is
compressed holds a buffer as its length before compression (8 bytes, -1 for "as it is") and the compressed bytes, so some
kilobytes of file may announce any amount of memory, and a batch of a column of nulls any number of rows."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from florilegium.data.cell_size import FREE_BYTES, MAX_COMPRESSION, refuse_empty_rows
from florilegium.errors import DataError

MAX_BATCH_BYTES = (
    1 << 30
)  # of a record batch or a dictionary, unpacked: pyarrow holds one at a time, and its packed form
MAX_METADATA_BYTES = 64 << 20
_CONTINUED = 0xFFFFFFFF
_MESSAGE_KIND, _MESSAGE_HEADER, _MESSAGE_BODY_LENGTH = 1, 2, 3
_DICTIONARY, _RECORD_BATCH = 2, 3
_DICTIONARY_DATA = 1
_BATCH_ROWS, _BATCH_BUFFERS, _BATCH_COMPRESSION = 0, 2, 3
_FOOTER_DICTIONARIES, _FOOTER_BATCHES, _BLOCK_BYTES = 2, 3, 24
_OLD_COMPRESSION = b"experimental_compression"  # how Arrow 0.17 noted it, which pyarrow still reads


@dataclass(frozen=True)
class _Table:
    """A Flatbuffers table. Every read is within the data, or a ValueError."""

    data: bytes
    at: int

    def number(self, form: str, at: int) -> int:
        if at < 0 or at + struct.calcsize(form) > len(self.data):
            raise ValueError("a metadata offset is out of range")
        return int(struct.unpack_from(form, self.data, at)[0])

    def place(self, field: int) -> int:
        """Where a field's value lies; 0 where it is not set."""
        vtable = self.at - self.number("<i", self.at)
        inside = 4 + 2 * field < self.number("<H", vtable)
        offset = self.number("<H", vtable + 4 + 2 * field) if inside else 0
        return self.at + offset if offset else 0

    def field(self, field: int, form: str) -> int:
        at = self.place(field)
        return self.number(form, at) if at else 0

    def table(self, field: int) -> _Table | None:
        at = self.place(field)
        return _Table(self.data, at + self.number("<I", at)) if at else None

    def structs(self, field: int, size: int) -> Iterator[int]:
        """Where each item of a vector of structs of `size` bytes lies."""
        if at := self.place(field):
            at += self.number("<I", at)
            count = self.number("<I", at)
            if count * size > len(self.data) - at:
                raise ValueError("a metadata offset is out of range")
            yield from range(at + 4, at + 4 + count * size, size)


@dataclass(frozen=True)
class _Message:
    table: _Table
    body_at: int
    body_bytes: int


def refuse_arrow_bombs(file: IO[bytes], is_file: bool, name: str) -> None:
    """The file stands at its beginning afterwards. Raises: DataError for a batch that would be far larger in memory than
    in the file, over MAX_BATCH_BYTES, or has rows of nothing; ValueError for what is no Arrow file."""
    rows, file_bytes = 0, file.seek(0, os.SEEK_END)
    for at in _by_footer(file) if is_file else _one_after_another(file):
        if message := _message(file, at):
            rows += _check(file, message, name)
        refuse_empty_rows(rows, file_bytes, name)
    file.seek(0)


def _root(data: bytes) -> _Table:
    return _Table(data, _Table(data, 0).number("<I", 0))


def _one_after_another(file: IO[bytes]) -> Iterator[int]:
    """Where the messages of a stream lie."""
    at = 0
    while message := _message(file, at):
        yield at
        at = message.body_at + message.body_bytes


def _by_footer(file: IO[bytes]) -> Iterator[int]:
    """Where the dictionaries and batches of a file lie: its footer decides that, not their order."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - 10))
    tail = file.read(10)
    size = int.from_bytes(tail[:4], "little")
    if tail[4:] != b"ARROW1" or not 0 < size <= min(end - 10, MAX_METADATA_BYTES):
        raise ValueError("no footer at its end")
    file.seek(end - 10 - size)
    footer = _root(file.read(size))
    for field in (_FOOTER_DICTIONARIES, _FOOTER_BATCHES):
        for block in footer.structs(field, _BLOCK_BYTES):
            yield footer.number("<q", block)


def _message(file: IO[bytes], at: int) -> _Message | None:
    """The message at `at`; None at the end of a stream."""
    end = file.seek(0, os.SEEK_END)
    if at < 0:
        raise ValueError("a message starts before the data")
    file.seek(at)
    head = file.read(8)
    if len(head) < 8:
        return None
    first, size = struct.unpack("<Ii", head)
    if first != _CONTINUED:  # as Arrow wrote it until 0.15
        size = struct.unpack("<i", head[:4])[0]
        file.seek(at + 4)
    if size == 0:
        return None
    if not 0 < size <= MAX_METADATA_BYTES:
        raise ValueError(f"a message with metadata of {size:,} bytes")
    table = _root(file.read(size))
    message = _Message(table, file.tell(), table.field(_MESSAGE_BODY_LENGTH, "<q"))
    if not 0 <= message.body_bytes <= end - message.body_at:
        raise ValueError("it is cut off")
    return message


def _check(file: IO[bytes], message: _Message, name: str) -> int:
    """The number of its rows."""
    header, kind = message.table.table(_MESSAGE_HEADER), message.table.field(_MESSAGE_KIND, "<B")
    if header is not None and kind == _DICTIONARY:
        header = header.table(_DICTIONARY_DATA)
    if header is None or kind not in (_DICTIONARY, _RECORD_BATCH):
        return 0
    packed = message.body_bytes
    is_packed = bool(header.place(_BATCH_COMPRESSION)) or _OLD_COMPRESSION in message.table.data
    unpacked = _unpacked_bytes(file, message.body_at, header) if is_packed else packed
    if unpacked > FREE_BYTES + MAX_COMPRESSION * packed or max(packed, unpacked) > MAX_BATCH_BYTES:
        raise DataError(
            f"{name}: a record batch of it would be {max(packed, unpacked):,} bytes in memory",
            f"Write the file again with record batches of fewer rows (at most {MAX_BATCH_BYTES >> 20:,} MiB each)",
        )
    return header.field(_BATCH_ROWS, "<q")


def _unpacked_bytes(file: IO[bytes], body_at: int, batch: _Table) -> int:
    """What the buffers of a compressed body are in memory. A buffer of a negative length is pyarrow's to refuse."""
    total = 0
    for place in batch.structs(_BATCH_BUFFERS, 16):
        offset, length = batch.number("<q", place), batch.number("<q", place + 8)
        if length > 8 and offset >= 0:
            file.seek(body_at + offset)
            announced = int.from_bytes(file.read(8), "little", signed=True)
            total += length - 8 if announced == -1 else max(0, announced)
    return total
