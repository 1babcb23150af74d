"""Text files, one physical line at a time, without ever holding more of a line than a row may have.

Everything here is bytes with a line number and a byte offset: only so can a message name the byte that is not UTF-8.
What is not UTF-8 text at all (UTF-16, a zip, a Parquet file with the wrong ending) is told from the first bytes, since
its "lines" would only give a hundred puzzling errors. A UTF-8 byte order mark is dropped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from florilegium.data.quote import SKIP
from florilegium.data.raw_rows import Problem, readable
from florilegium.errors import DataError

MAX_ROW_BYTES = 1 << 20
OVER_LIMIT = f"the row is over {MAX_ROW_BYTES:,} bytes"

_BOM = b"\xef\xbb\xbf"
_OTHER_UNICODE = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")
_OTHER_KINDS = {
    b"\x1f\x8b": "a gzip file",
    b"PK\x03\x04": "a zip or Excel file",
    b"PAR1": "a Parquet file",
    b"BZh": "a bzip2 file",
}


class Piece(NamedTuple):  # a frozen dataclass takes three times as long to make, and each row is one
    """Bytes of a file and where they begin (line and column from 1, offset from 0); `data` is None where they were too
    many."""

    data: bytes | None
    line: int
    offset: int
    column: int = 1


@contextmanager
def open_text(path: Path) -> Iterator[BinaryIO]:
    """`path`, opened behind its byte order mark.

    Raises: DataError when it cannot be opened, is in UTF-16 or UTF-32, or is a known kind of binary file.
    """
    with readable(path), path.open("rb") as file:
        head = file.read(1024)
        _refuse_other_kinds(path, head)
        file.seek(len(_BOM) if head.startswith(_BOM) else 0)
        yield file


def _refuse_other_kinds(path: Path, head: bytes) -> None:
    # ASCII in UTF-16 is half NULs, in UTF-32 three quarters; text in UTF-8 has none.
    if head.startswith(_OTHER_UNICODE) or head.count(0) * 5 > len(head) > 0:
        width = (
            "UTF-32" if head.startswith((b"\xff\xfe\x00\x00", b"\x00\x00")) or b"\x00\x00\x00" in head[:8] else "UTF-16"
        )
        wide = f"iconv -f {width} -t UTF-8 {path.name} > utf8-{path.name}"
        raise DataError(f"{path.name}: byte 0: looks like {width}, not UTF-8", f"Convert it: {wide}")
    for magic, name in _OTHER_KINDS.items():
        if head.startswith(magic):
            raise DataError(
                f"{path.name}: byte 0: this is {name}, not {path.suffix} text", "Unpack it, or give it its right ending"
            )


def physical_lines(file: BinaryIO, line: int = 1) -> Iterator[Piece]:
    """The lines of a file, without their line feed. A line over `MAX_ROW_BYTES` is read past, never into memory."""
    offset = file.tell()
    while data := file.readline(MAX_ROW_BYTES + 2):
        size = len(data)
        if size > MAX_ROW_BYTES and len(data.rstrip(b"\r\n")) > MAX_ROW_BYTES:
            size += _read_past_line(file, data)
            yield Piece(None, line, offset)
        else:
            yield Piece(data.rstrip(b"\n"), line, offset)
        offset += size
        line += 1


def _read_past_line(file: BinaryIO, data: bytes) -> int:
    """Reads on to the end of the line that `data` begins, and says how many bytes that took."""
    size = 0
    while data and not data.endswith(b"\n"):
        data = file.readline(MAX_ROW_BYTES)
        size += len(data)
    return size


def decode(piece: Piece, place: str) -> str | Problem:
    """The text of a piece, or what is wrong with its bytes."""
    if piece.data is None:
        return Problem(place, OVER_LIMIT, f"Shorten it, {SKIP}")
    try:
        return piece.data.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = f"0x{piece.data[error.start]:02x} at byte {piece.offset + error.start}"
        return Problem(place, f"not UTF-8: {byte}", f"Save the file as UTF-8, {SKIP}", kind="not UTF-8")
