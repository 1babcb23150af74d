"""CSV and Parquet: tables whose header or schema is checked before the first row.

CSV is RFC 4180 with commas, through the `csv` module in its strict mode, fed line by line so that each row knows its
first line, and so that an unclosed quote swallows a mebibyte at most and not the rest of the file. Its rows hold text
only: tags are split on commas.

Parquet goes through pyarrow, a few hundred rows at a time and only the columns that the template names. A string column
may hold bytes that are not UTF-8 (nothing checks that when it is written), so values are taken one by one."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from florilegium.data.lines import MAX_ROW_BYTES, OVER_LIMIT, Piece, decode, open_text, physical_lines
from florilegium.data.quote import SKIP
from florilegium.data.raw_rows import Found, Problem, Raw, Stream, check_header, name_of, readable
from florilegium.errors import DataError

_PARQUET_BATCH_ROWS = 256


class _BadLine(Exception):
    """Carries a Problem out through the csv reader, which asks for lines from within."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem


class _RowLines:
    """Lines for the csv reader, which takes several where a quoted field holds line breaks; counts the bytes of each
    row."""

    def __init__(self, name: str, pieces: Iterator[Piece]) -> None:
        self.name, self._pieces = name, pieces
        self._next = next(pieces, None)
        self.start_line, self._bytes = 0, 0

    def begin_row(self) -> bool:
        """Whether there is another row; passes over blank lines, which are no rows."""
        while self._next is not None and self._next.data is not None and not self._next.data.strip():
            self._next = next(self._pieces, None)
        self.start_line, self._bytes = (self._next.line if self._next else 0), 0
        return self._next is not None

    @property
    def place(self) -> str:
        return f"{self.name}:{self.start_line}"

    def __iter__(self) -> _RowLines:
        return self

    def __next__(self) -> str:
        if self._next is None:
            raise StopIteration
        piece, self._next = self._next, next(self._pieces, None)
        text = decode(piece, f"{self.name}:{piece.line}")
        if isinstance(text, Problem):
            raise _BadLine(text)
        self._bytes += len(piece.data or b"") + 1
        if self._bytes > MAX_ROW_BYTES + 1:
            fix = f"Close the quote that opens there, or shorten the row, {SKIP}"
            raise _BadLine(Problem(self.place, OVER_LIMIT, fix))
        return text + "\n"


def read_csv(path: Path, columns: tuple[str, ...]) -> Stream:
    """The rows of a CSV file as objects of text.

    Raises: DataError for a header that cannot be read or that lacks one of `columns`.
    """
    with open_text(path) as file:
        lines = _RowLines(name_of(path), physical_lines(file))
        reader = csv.reader(lines, strict=True)
        header = _header(lines, reader, columns)
        while lines.begin_row():
            fields = _next_row(lines, reader)
            yield fields if isinstance(fields, Problem) else _as_row(lines.place, header, fields)


def _header(lines: _RowLines, reader: Any, columns: tuple[str, ...]) -> list[str]:
    if not lines.begin_row():
        raise DataError(f"{lines.name}: the file has no rows", "Give a file with a header and at least one row")
    fields = _next_row(lines, reader)
    if isinstance(fields, Problem):
        raise fields.error()
    header = [name.strip() for name in fields]
    check_header(lines.place, header, columns)
    return header


def _next_row(lines: _RowLines, reader: Any) -> list[str] | Problem:
    # the module's own limit is 128 KiB, and global: set for one row, then put back
    limit = csv.field_size_limit(MAX_ROW_BYTES)
    try:
        return list(next(reader))
    except _BadLine as bad:
        return bad.problem
    except csv.Error as error:
        unclosed = "unexpected end of data" in str(error)
        cause = (
            "a quote opens in this row and never closes"
            if unclosed
            else f"invalid CSV: {str(error).partition(' - ')[0]}"
        )
        return Problem(lines.place, cause, f'Write a quote inside a field twice (""), {SKIP}', kind="invalid CSV")
    finally:
        csv.field_size_limit(limit)


def _as_row(place: str, header: list[str], fields: list[str]) -> Found:
    if len(fields) != len(header):
        cause = f"{len(fields)} fields where the header has {len(header)}"
        return Problem(place, cause, f"Put text with commas in double quotes, {SKIP}", kind="wrong number of fields")
    return Raw(place, dict(zip(header, fields, strict=True)))


def read_parquet(path: Path, columns: tuple[str, ...], also: tuple[str, ...] = ()) -> Stream:
    """The rows of a Parquet file: the columns that the template names, and of `also` those that are there; the others
    as None.

    Raises: DataError for a file that is no Parquet, is damaged, or lacks one of `columns`.
    """
    import pyarrow
    import pyarrow.parquet

    with readable(path):
        source = path.open("rb")
    try:
        with source, pyarrow.parquet.ParquetFile(source) as file:
            names = list(file.schema_arrow.names)
            check_header(name_of(path), names, columns)
            yield from _batches(
                path, file, names, columns, [name for name in also if name in names and name not in columns]
            )
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        cause = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise DataError(
            f"{path.name}: not a Parquet file, or a damaged one ({cause})", "Write or download it again"
        ) from None


def _batches(path: Path, file: Any, names: list[str], columns: tuple[str, ...], extra: list[str]) -> Stream:
    name_here, number = name_of(path), 0
    for batch in file.iter_batches(batch_size=_PARQUET_BATCH_ROWS, columns=[*columns, *extra], use_threads=False):
        for index in range(batch.num_rows):
            number += 1
            others = dict.fromkeys(names) | {name: as_text(batch.column(name)[index]) for name in extra}
            yield take_row(f"{name_here}: row {number}", others, {name: batch.column(name)[index] for name in columns})


def as_text(cell: Any) -> str | None:
    """A cell that is nice to have: its text, or None where it is none or cannot be read."""
    try:
        value = cell.as_py()
    except (UnicodeDecodeError, ValueError, OverflowError):
        return None
    return value if isinstance(value, str) else None


def take_row(place: str, others: dict[str, Any], cells: dict[str, Any]) -> Found:
    """A row from pyarrow scalars, or from plain values; `others` are the columns that are not read."""
    row: dict[str, object] = dict(others)
    for name, cell in cells.items():
        try:
            row[name] = cell.as_py() if hasattr(cell, "as_py") else cell
        except UnicodeDecodeError as error:
            cause = f"column {name!r} is not UTF-8 (byte {error.start} of the value)"
            return Problem(place, cause, f"Write the file again from UTF-8 text, {SKIP}", kind="not UTF-8")
        except (ValueError, OverflowError) as error:
            return Problem(place, f"column {name!r} cannot be read ({error})", f"Write text there, {SKIP}")
    return Raw(place, row)
