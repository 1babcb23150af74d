"""How a CSV file is written, told from its first lines: the sign between columns, and whether the first row names them.

Comma, semicolon, tab, `|` and `:` are tried; the one that gives the same number of fields in the most rows is it, and a
header whose words are known speaks for it. Excel's first line `sep=;` decides without trying. A first row is no header
when none of its cells is a name that is known and one of them is a sentence, a number, or a value that comes again
below. Titles and comments above a row that names the columns are passed over, and so are blank lines and a spreadsheet's
rows of empty cells. Lines end where the reader's do, at a line feed and nowhere else."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO

from florilegium.data.column_names import find_author, find_pair, find_tags, find_text, is_never_trained
from florilegium.data.raw_rows import Note
from florilegium.errors import counted

_SIGNS = ",;\t|:"
_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "|", ":": "colons"}
_ALONE = "\x1f"  # between columns where there is one only: a sign that no text holds
_NOTHING = re.compile(rf'(?:[\s{_SIGNS}]|"\s*")*')
_HEAD_BYTES, _MOST_ROWS, _MOST_TITLES = 1 << 18, 200, 12


@dataclass(frozen=True)
class Dialect:
    """`width` is the number of columns, `skip_lines` the lines of the file above the first row."""

    delimiter: str
    width: int
    has_header: bool
    skip_lines: int = 0
    titles: int = 0  # of what is skipped, the rows that people wrote

    def notes(self, name: str) -> Iterator[Note]:
        if self.titles:
            yield passed_over(name, self.titles)
        if self.delimiter not in (",", _ALONE):
            yield Note(f"{name}: columns are separated by {_NAMES.get(self.delimiter, self.delimiter)}")
        if not self.has_header:
            yield without_header(name, self.width)


def without_header(name: str, width: int) -> Note:
    called = "'column 1'" if width == 1 else f"'column 1' to 'column {width}'"
    return Note(f"{name}: no header, the first row is one of the rows; columns are called {called}")


def passed_over(name: str, titles: int) -> Note:
    return Note(f"{name}: skipped {counted(titles, 'line')} above the header")


def sniff(file: BinaryIO, name: str, *, tabs_first: bool = False) -> Dialect:
    """How the file is written from where it stands; it is put back there."""
    start = file.tell()
    data = file.read(_HEAD_BYTES)
    file.seek(start)
    lines = [line.decode("utf-8", "replace") + "\n" for line in data.split(b"\n")]
    if len(data) == _HEAD_BYTES:
        lines = lines[:-1] or lines
    above = _blank_lines(lines)
    lines = lines[above:]
    signs = "\t" + _SIGNS.replace("\t", "") if tabs_first else _SIGNS
    titles, header = max(_titles(lines, sign) for sign in signs)
    if titles:
        return replace(_sniffed(lines[header:], signs), skip_lines=above + header, titles=titles)
    if lines and lines[0].lower().startswith("sep=") and len(lines[0].strip()) <= 5:
        sign = lines[0].rstrip("\r\n")[4:] or ","
        first = 1 + _blank_lines(lines[1:])
        return _with_header(sign, _rows(lines[first:], sign), skip_lines=above + first)
    return replace(_sniffed(lines, signs), skip_lines=above)


def _blank_lines(lines: list[str]) -> int:
    """How many stand above the first that says something."""
    return next((number for number, line in enumerate(lines) if says_something(line)), len(lines))


def _titles(lines: list[str], sign: str) -> tuple[int, int]:
    """How many titles stand above the row that names the columns, and how many lines: of blank ones too, and of titles
    of several lines."""
    rows = [(line, row) for line, row in _numbered_rows(lines, sign) if any(map(says_something, row))]
    titles = count_titles([row for _, row in rows[:_MOST_TITLES]])
    return titles, rows[titles][0] if titles else 0


def says_something(line: str) -> bool:
    """Not a blank line, nor one of a spreadsheet's rows of empty cells: `,,,` or `"",""`."""
    return not _NOTHING.fullmatch(line)


def _sniffed(lines: list[str], signs: str) -> Dialect:
    scored = [(_score(rows), -rank, sign, rows) for rank, sign in enumerate(signs) if (rows := _rows(lines, sign))]
    best = max(scored, default=None)
    if best is None or best[0] <= 0:
        sign = _ALONE if _is_one_column(lines) else ","
        return _with_header(sign, _rows(lines, sign))
    return _with_header(best[2], best[3])


def _rows(lines: list[str], sign: str) -> list[list[str]]:
    return [row for _, row in _numbered_rows(lines, sign)]


def _numbered_rows(lines: list[str], sign: str) -> list[tuple[int, list[str]]]:
    """The first rows that are not of empty cells alone, each with the number of lines before it."""
    rows: list[tuple[int, list[str]]] = []
    reader = csv.reader(map(_without_controls, lines), delimiter=sign, skipinitialspace=True)
    before = 0
    try:
        for row in reader:
            if any(map(str.strip, row)):
                rows.append((before, row))
            if len(rows) >= _MOST_ROWS:
                break
            before = reader.line_num
    except csv.Error:  # a field of more than 128 KiB: what came before it tells enough
        pass
    return rows


def _without_controls(line: str) -> str:
    """Without what the csv module refuses within a line."""
    return line.rstrip("\r\n").replace("\0", " ").replace("\r", " ") + "\n"


def count_titles(rows: Sequence[Sequence[str]]) -> int:
    """How many rows stand above the one that names the columns: comments, and titles in one cell."""
    for number, row in enumerate(rows):
        if number and _are_names(row):
            return number
        is_title = sum(bool(cell.strip()) for cell in row) < 2 or row[0].startswith("#")
        if not is_title:
            break
    return 0


def _are_names(cells: Sequence[str]) -> bool:
    """Whether all are short, and one is called as texts are, one as tags or authors are."""
    names = [cell.strip() for cell in cells if cell.strip()]
    are_short = all(len(name) <= 40 and len(name.split()) <= 3 and name[0] != "#" for name in names)
    return are_short and bool(find_text(names)) and bool(find_tags(names) or find_author(names))


def _score(rows: list[list[str]]) -> float:
    """The share of rows that have as many fields as the first; more for a first row that names columns."""
    width = len(rows[0])
    if width < 2:
        return 0.0
    alike = sum(len(row) == width for row in rows) / len(rows)
    return alike + (1.0 if _known(rows[0]) else 0.0) if alike >= 0.5 or _known(rows[0]) else 0.0


def _known(cells: list[str]) -> bool:
    """Whether a cell is called as a text, a tag or an author is."""
    names = [cell.strip() for cell in cells if 0 < len(cell.strip()) <= 40]
    return bool(find_text(names) or find_tags(names) or find_author(names) or find_pair(names))


def _is_one_column(lines: list[str]) -> bool:
    """Whether the first line is one name, so that the commas below it belong to the texts."""
    return bool(lines) and not any(sign in lines[0] for sign in ",;\t|")


def _with_header(sign: str, rows: list[list[str]], skip_lines: int = 0) -> Dialect:
    if not rows:
        return Dialect("," if sign == _ALONE else sign, 0, True, skip_lines)
    return Dialect(sign, len(rows[0]), is_header(rows[0], rows[1:]), skip_lines)


def is_header(first: list[str], below: list[list[str]]) -> bool:
    """Whether a first row names columns. One that stands below again is the header of another file behind this one."""
    cells = [cell.strip() for cell in first]
    below = [row for row in below if row != first] or below
    recurs = [cell in {row[i].strip() for row in below[:50] if i < len(row)} for i, cell in enumerate(cells)]
    if not below or names_something([cell for cell, again in zip(cells, recurs, strict=True) if not again]):
        return True
    filled = [(cell, again) for cell, again in zip(cells, recurs, strict=True) if cell]
    return not any(again or _is_value(cell) for cell, again in filled)


def _is_value(cell: str) -> bool:
    return len(cell) > 40 or cell[-1] in ".!?" or len(cell.split()) > 5 or cell.replace(".", "").isdigit()


def names_something(cells: list[str]) -> bool:
    """A cell that is short and called as columns are; "Home is where the text is" is a sentence with such a word."""
    names = [cell for cell in cells if cell and len(cell) <= 40 and len(cell.split()) <= 3 and cell[-1] not in ".!?"]
    known = bool(find_text(names) or find_tags(names) or find_author(names) or find_pair(names))
    return known or bool(names and all(is_never_trained(name) for name in names))
