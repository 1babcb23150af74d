"""CSV to rows of text, each with the line where it begins.

RFC 4180 through the `csv` module in its strict mode, fed line by line. The sign between columns and whether there is a
header are told from the file's beginning (`csv_dialect.py`). A row that the module refuses is tried again by itself:
with backslashes before its quotation marks, then with quotation marks that mean nothing (`"Home" is where ...`). A
quotation mark that never closes makes one bad row, and reading goes on at the next line: it swallows no others."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from florilegium.data.csv_dialect import Dialect, sniff
from florilegium.data.lines import MAX_ROW_BYTES, OVER_LIMIT, Decoder, Piece, open_text, physical_lines
from florilegium.data.quote import SKIP
from florilegium.data.raw_rows import Found, Problem, Raw, Stream, check_names, name_of
from florilegium.errors import DataError

_CLOSE = f'Write a quote inside a field twice (""), {SKIP}'


class _BadLine(Exception):
    """Carries a Problem out through the csv reader, which asks for lines from within."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem


class _RowLines:
    """Lines for the csv reader, which takes several where a quoted field holds line breaks. Those of the row under way
    are kept, to be given back when it turns out that they are none of its own."""

    def __init__(self, name: str, pieces: Iterator[Piece], decoder: Decoder) -> None:
        self.name, self._pieces, self._decoder = name, pieces, decoder
        self._ahead: deque[Piece] = deque()
        self.taken: list[Piece] = []
        self._bytes = 0
        self._advance()

    def _advance(self) -> None:
        if not self._ahead and (piece := next(self._pieces, None)) is not None:
            self._ahead.append(piece)

    def begin_row(self) -> bool:
        """Whether there is another row; passes over blank lines, which are no rows."""
        self.taken, self._bytes = [], 0
        while self._ahead and self._ahead[0].data is not None and not self._ahead[0].data.strip():
            self._ahead.popleft()
            self._advance()
        return bool(self._ahead)

    def pass_over(self, count: int) -> None:
        """Leaves lines out, whatever is in them."""
        while count and self._ahead:
            self._ahead.popleft()
            self._advance()
            count -= 1

    def give_back(self) -> str:
        """Keeps the first line of the row alone; the others are rows of their own. That line's text."""
        first, *others = self.taken
        self._ahead.extendleft(reversed(others))
        self._advance()
        self.taken = [first]
        text = self._decoder.decode(first, self.place)
        return text if isinstance(text, str) else ""

    @property
    def place(self) -> str:
        return f"{self.name}:{self.taken[0].line if self.taken else self._ahead[0].line}"

    def __iter__(self) -> _RowLines:
        return self

    def __next__(self) -> str:
        if not self._ahead:
            raise StopIteration
        piece = self._ahead.popleft()
        self.taken.append(piece)
        self._advance()
        text = self._decoder.decode(piece, f"{self.name}:{piece.line}")
        if isinstance(text, Problem):
            raise _BadLine(text)
        self._bytes += len(piece.data or b"") + 1
        if self._bytes > MAX_ROW_BYTES + 1:
            fix = f"Close the quote that opens there, or shorten the row, {SKIP}"
            raise _BadLine(Problem(self.place, OVER_LIMIT, fix))
        return text + "\n"


def read_csv(path: Path) -> Stream:
    """The rows of a CSV file as objects of text.

    Raises: DataError for a file without rows, or with a header that cannot be read."""
    name, decoder = name_of(path), Decoder()
    with open_text(path) as (file, notes):
        yield from notes
        dialect = sniff(file, name, tabs_first=".tsv" in path.name.lower())
        yield from dialect.notes(name)
        lines = _RowLines(name, physical_lines(file), decoder)
        lines.pass_over(dialect.skip_lines)
        reader = csv.reader(lines, strict=True, delimiter=dialect.delimiter, skipinitialspace=True)
        names = _names(lines, reader, dialect)
        while lines.begin_row():
            fields = _next_row(lines, reader)
            if isinstance(fields, list) and len(fields) > 1 and not any(map(str.strip, fields)):
                continue  # a spreadsheet writes such rows below its last one
            yield _as_row(lines, names, dialect, fields)
    yield from decoder.notes(name)


_Reader = Iterator[list[str]]


def _names(lines: _RowLines, reader: _Reader, dialect: Dialect) -> list[str]:
    if not lines.begin_row():
        raise _no_rows(lines)
    if not dialect.has_header:
        return [f"column {number}" for number in range(1, dialect.width + 1)]
    fields = _next_row(lines, reader)
    while isinstance(fields, list) and not any(map(str.strip, fields)):
        if not lines.begin_row():  # as many empty rows as the dialect is told from
            raise _no_rows(lines)
        fields = _next_row(lines, reader)
    if isinstance(fields, Problem):
        raise fields.error()
    names = [name.strip() or f"column {number}" for number, name in enumerate(fields, 1)]
    check_names(lines.place, names)
    return names


def _no_rows(lines: _RowLines) -> DataError:
    return DataError(f"{lines.name}: the file has no rows", "Give a file with a header and at least one row")


def _next_row(lines: _RowLines, reader: _Reader) -> list[str] | Problem:
    # the module's own limit is 128 KiB, and global: set for one row, then put back
    limit = csv.field_size_limit(MAX_ROW_BYTES)
    try:
        return list(next(reader))
    except _BadLine as bad:
        return bad.problem
    except csv.Error as error:
        # the csv module has one class for all that is wrong, so its words must do
        unclosed = "unexpected end of data" in str(error)
        said = str(error).partition(" - ")[0]
        cause = "a quote opens in this row and never closes" if unclosed else f"invalid CSV: {said}"
        return Problem(lines.place, cause, _CLOSE, kind="invalid CSV")
    finally:
        csv.field_size_limit(limit)


def _as_row(lines: _RowLines, names: list[str], dialect: Dialect, fields: list[str] | Problem) -> Found:
    if not isinstance(fields, Problem):
        if len(fields) == len(names):
            return Raw(lines.place, dict(zip(names, fields, strict=True)))
        problem = _wrong_number(lines.place, names, fields)
        if len(lines.taken) == 1:
            return problem
    elif lines.taken[0].data is None or (fields.kind == "not UTF-8" and len(lines.taken) == 1):
        return fields
    else:
        problem = fields
    # The row took lines that may be none of its own: all but the first are given back.
    text = lines.give_back()
    for again in _other_readings(text, dialect.delimiter):
        if len(again) == len(names):
            return Raw(lines.place, dict(zip(names, again, strict=True)))
    if problem.kind == "invalid CSV" or problem.cause == OVER_LIMIT:
        return problem
    return Problem(lines.place, "a quote opens in this row and does not close in it", _CLOSE, kind="invalid CSV")


def _wrong_number(place: str, names: list[str], fields: list[str]) -> Problem:
    cause = f"{len(fields)} fields where the header has {len(names)}"
    return Problem(place, cause, f"Put text with commas in double quotes, {SKIP}", kind="wrong number of fields")


def _other_readings(text: str, delimiter: str) -> Iterator[list[str]]:
    """One line, read as if backslashes hid its quotation marks, and as if those that are there meant nothing."""
    readings: list[dict[str, object]] = []
    if '\\"' in text:
        readings.append({"escapechar": "\\", "strict": True})
    if text.count('"') % 2 == 0:
        readings.append({"quoting": csv.QUOTE_NONE})
    for how in readings:
        try:
            yield next(csv.reader([text], delimiter=delimiter, skipinitialspace=True, **how))  # type: ignore[arg-type]
        except (csv.Error, StopIteration):
            continue
