"""What a reader of files hands on: row after row, each with its place, or with what is wrong at that place.

A `Raw` row is whatever stood there, not checked yet. A `Problem` is a row that could not be read at all, or (later, in
`read.py`) one that the template cannot use. Readers never decide whether a bad row ends the run: they hand it on, and
`--skip-bad-rows` decides in one place. A file that cannot be read as a whole (not there, not permitted, not the right
kind, no row at all) is a DataError on the spot."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import NamedTuple

from florilegium.data.quote import first_doubled
from florilegium.errors import DataError, ResourceError, counted, one_line

SAMPLE_ROWS, SAMPLE_SIZE = 1000, 8 << 20


class Raw(NamedTuple):
    """A row as it stood in the file: any JSON value."""

    place: str
    row: object


@dataclass(frozen=True, slots=True)
class Problem:
    """A bad row. `kind` groups problems whose `cause` differs from row to row; by default it is the cause."""

    place: str
    cause: str
    fix: str
    kind: str = ""

    def error(self) -> DataError:
        return DataError(f"{self.place}: {self.cause}", self.fix)

    @property
    def group(self) -> str:
        return self.kind or self.cause


def too_many(skipped: list[Problem], num_read: int) -> DataError:
    """More bad rows than a slip or two: the first of them, and how many there are."""
    first = skipped[0]
    others = f" ({counted(len(skipped), 'bad row')} of {num_read:,} read)" if len(skipped) > 1 else ""
    return DataError(f"{first.place}: {first.cause}{others}", first.fix)


def causes(skipped: list[Problem]) -> str:
    """The first bad row, and how many there are of each kind where there are several kinds."""
    groups = Counter(problem.group for problem in skipped).most_common(4)
    kinds = f"; {', '.join(f'{count:,} {group}' for group, count in groups)}" if len(groups) > 1 else ""
    return f"; {skipped[0].place}: {skipped[0].cause}{kinds}"


class Note(NamedTuple):
    """What a reader did that its user should know, in one sentence: no row."""

    text: str


Found = Raw | Problem | Note
Stream = Iterator[Found]


def first_rows(stream: Iterator[Found]) -> Iterator[Raw]:
    """The first rows that can be read. What ends the reading later on is told when it is met again."""
    size = count = 0
    try:
        for found in stream:
            if isinstance(found, Raw):
                yield found
                count, size = count + 1, size + len(str(found.row))
                if count >= SAMPLE_ROWS or size >= SAMPLE_SIZE:
                    return
    except DataError:
        return


def name_of(path: Path) -> str:
    """A file's name as it stands in places: printable, whatever bytes the name holds."""
    return one_line(path.name)


def start_of(text: str, width: int = 40) -> str:
    """The first `width` characters of a row, for a message."""
    text = text.strip()
    return repr(text if len(text) <= width else text[:width] + "...")


def check_names(place: str, names: list[str]) -> None:
    """Raises: DataError when a table has two columns of one name."""
    doubled = first_doubled(names)
    if doubled is not None:
        raise DataError(f"{place}: two columns are called {doubled[:80]!r}", "Rename one of them")


def no_such_column(place: str, found: list[str], wanted: tuple[str, ...], fix: str) -> Problem:
    """The problem of rows that lack a column: which, and what they have."""
    missing = [name for name in wanted if name not in found]
    listed = ", ".join(one_line(name[:40]) for name in found[:20]) or "none"
    more = f" and {len(found) - 20:,} more" if len(found) > 20 else ""
    return Problem(place, f"no column {', '.join(map(repr, missing))}; found: {listed}{more}", fix)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns what the operating system says about a file into a DataError."""
    try:
        yield
    except PermissionError:
        rights = "u+rx" if os.path.isdir(path) else "u+r"
        raise DataError(f"{path}: permission denied", f"Make it readable: chmod {rights} {quote(str(path))}") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder, not a file", "Name a file in it, or rename the folder") from None
    except FileNotFoundError:
        raise DataError(
            f"no such file: {path}", "It was there a moment ago: is something else writing to the folder?"
        ) from None
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise ResourceError(f"{path}: too many files are open", "Raise the limit: ulimit -n 4096") from None
        fix = "Copy it to a local disk and try again"
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            fix = "Check the path, or give the file a shorter one"
        raise DataError(f"{str(path)[:300]}: cannot be read ({error.strerror or error})", fix) from None
