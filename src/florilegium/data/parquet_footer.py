"""How large the columns of a Parquet file are, out of its footer, before pyarrow touches any of it.

    PAR1  pages ...  footer  its length (4 bytes)  PAR1

The footer is a struct in Thrift's compact protocol: a byte for each field (its kind, and how far its number is from the
last one's), then the value. pyarrow has these numbers too, but ends the whole process where a damaged file gives it a
column with statistics that do not fit (`terminate called after throwing 'parquet::ParquetException'`)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO

DEEPEST = 30
_BOOLS, _BYTE, _INTS, _DOUBLE, _BINARY, _LISTS, _MAP, _STRUCT = (1, 2), 3, (4, 5, 6), 7, 8, (9, 10), 11, 12


@dataclass(frozen=True)
class ColumnPart:
    """A column's data in one group of rows; `name` is that of the column of the table."""

    name: str
    num_rows: int
    num_values: int
    bytes_packed: int
    bytes_unpacked: int


def read_parts(file: IO[bytes]) -> list[ColumnPart]:
    """The parts of all columns; the file stands at its beginning afterwards. Raises: ValueError for a footer that is
    none."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - 8))
    tail = file.read(8)
    size = int.from_bytes(tail[:4], "little")
    if tail[4:] != b"PAR1" or size > end - 8:
        raise ValueError("no footer at its end")
    file.seek(end - 8 - size)
    footer = file.read(size)
    file.seek(0)
    try:
        return _Footer(footer).parts()
    except IndexError:
        raise ValueError("its footer is cut off") from None


class _Footer:
    """Reads forward through the bytes; `kind` is always Thrift's number for what comes next."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def parts(self) -> list[ColumnPart]:
        groups = self.struct({4: self.list_of(lambda: self.struct({1: self.list_of(self.column), 3: self.number}))})
        return [
            ColumnPart(_text(meta, 3), _number(group, 3), _number(meta, 5), _number(meta, 7), _number(meta, 6))
            for group in _list(groups, 4)
            for meta in _list(group, 1)
        ]

    def column(self) -> object:
        wanted = {3: self.list_of(self.binary), 5: self.number, 6: self.number, 7: self.number}
        return self.struct({3: lambda kind: self.struct(wanted)}).get(3, {})

    def struct(self, wanted: Mapping[int, Callable[[int], object]], depth: int = 0) -> dict[int, object]:
        """Its wanted fields by their numbers; what else is there is passed over."""
        found: dict[int, object] = {}
        number = 0
        while head := self.byte():
            kind = head & 15
            number = number + (head >> 4) if head >> 4 else self.number(kind)
            if number in wanted:
                found[number] = wanted[number](kind)
            else:
                self.skip(kind, depth)
        return found

    def list_of(self, item: Callable[[], object]) -> Callable[[int], object]:
        def read(kind: int) -> object:
            if kind not in _LISTS:
                raise ValueError("its footer has a value instead of a list")
            return [item() for _ in range(self.list_head()[0])]

        return read

    def list_head(self) -> tuple[int, int]:
        head = self.byte()
        return (self.varint() if head >> 4 == 15 else head >> 4), head & 15

    def byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            if (shift := shift + 7) > 63:
                raise ValueError("its footer has a number over 64 bits")

    def number(self, kind: int) -> int:
        value = self.varint()
        return value >> 1 ^ -(value & 1)

    def binary(self) -> bytes:
        size = self.varint()
        if size > len(self.data) - self.at:
            raise IndexError
        self.at += size
        return self.data[self.at - size : self.at]

    def skip(self, kind: int, depth: int, *, in_list: bool = False) -> None:
        if depth > DEEPEST:
            raise ValueError("its footer is nested too deep")
        if kind in _BOOLS:
            self.at += in_list  # a field that is true or false says so by its kind
        elif kind == _BYTE:
            self.byte()
        elif kind in _INTS:
            self.varint()
        elif kind == _DOUBLE:
            self.at += 8
        elif kind == _BINARY:
            self.binary()
        elif kind in _LISTS:
            self._skip_all(*self.list_head(), depth)
        elif kind == _MAP:
            if size := self.varint():
                kinds = self.byte()
                for _ in range(size):
                    self._skip_all(1, kinds >> 4, depth)
                    self._skip_all(1, kinds & 15, depth)
        elif kind == _STRUCT:
            self.struct({}, depth + 1)
        else:
            raise ValueError("its footer has a value of an unknown type")
        if self.at > len(self.data):
            raise IndexError

    def _skip_all(self, size: int, kind: int, depth: int) -> None:
        for _ in range(size):
            self.skip(kind, depth + 1, in_list=True)


def _number(found: object, field: int) -> int:
    value = found.get(field, 0) if isinstance(found, dict) else 0
    return value if isinstance(value, int) else 0


def _list(found: object, field: int) -> list[object]:
    value = found.get(field) if isinstance(found, dict) else None
    return value if isinstance(value, list) else []


def _text(found: object, field: int) -> str:
    """The first step of a column's path: the column of the table."""
    path = _list(found, field)
    return path[0].decode("utf-8", "replace") if path and isinstance(path[0], bytes) else ""
