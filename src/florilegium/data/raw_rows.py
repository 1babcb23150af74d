"""What a reader of files hands on: row after row, each with its place, or with what is wrong at that place.

A `Raw` row is whatever stood there, not checked yet. A `Problem` is a row that could not be read at all, or (later, in
`read.py`) one that the template cannot use. Readers never decide whether a bad row ends the run: they hand it on, and
`--skip-bad-rows` decides in one place. A file that cannot be read as a whole (not there, not permitted, not the right
kind, no row at all) is a DataError on the spot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from florilegium.data.quote import first_doubled
from florilegium.errors import DataError, one_line


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


Found = Raw | Problem
Stream = Iterator[Found]


def name_of(path: Path) -> str:
    """A file's name as it stands in places: printable, whatever bytes the name holds."""
    return one_line(path.name)


def start_of(text: str, width: int = 40) -> str:
    """The first `width` characters of a row, for a message."""
    text = text.strip()
    return repr(text if len(text) <= width else text[:width] + "...")


def check_header(place: str, names: list[str], template_columns: tuple[str, ...]) -> None:
    """Raises: DataError when a table has two columns of one name, or lacks a column of the template."""
    doubled = first_doubled(names)
    if doubled is not None:
        raise DataError(f"{place}: two columns are called {doubled[:80]!r}", "Rename one of them")
    if not set(template_columns) <= set(names):
        raise no_such_column(place, names, template_columns).error()


def no_such_column(place: str, found: list[str], wanted: tuple[str, ...]) -> Problem:
    """The problem of a table, or of first rows, that the template does not fit; it says what to type."""
    missing = [name for name in wanted if name not in found]
    listed = ", ".join(one_line(name[:40]) for name in found[:20]) or "none"
    more = f" and {len(found) - 20:,} more" if len(found) > 20 else ""
    cause = f"no column {', '.join(map(repr, missing))}; found: {listed}{more}"
    if len(found) == 1 and (";" in found[0] or "\t" in found[0]):
        return Problem(place, cause, "The columns seem to be separated by another sign: save the file with commas")
    return Problem(place, cause, _what_to_type(found, wanted))


_ALSO_CALLED: Mapping[str, tuple[str, ...]] = {
    "quote": ("quotes", "text", "saying", "sentence", "content", "body", "title"),
    "tags": ("tag", "labels", "label", "topics", "keywords", "categories", "category", "genres"),
}


def _what_to_type(found: list[str], wanted: tuple[str, ...]) -> str:
    # A row may bring 100,000 keys or one of a mebibyte; looking for what is alike would never end.
    usable = [name for name in found[:200] if len(name) <= 80 and name.isidentifier()]
    if not usable:
        return f"Rename the columns to {' and '.join(wanted)}"
    if len(usable) < len(wanted):
        return f"Add the missing column, or type --template {_example(usable)}"
    chosen: list[str] = []
    for name in wanted:
        chosen.append(
            _best(name, [other for other in usable if other not in chosen and (other == name or other not in wanted)])
        )
    if not all(chosen):
        return "Name the columns to use with --template, such as " + _example(usable[: len(wanted)])
    meant = next((f"Did you mean {new!r}? " for old, new in zip(wanted, chosen, strict=True) if old != new), "")
    return f"{meant}Type --template {_example(chosen)}"


def _best(name: str, others: list[str]) -> str:
    """The column that `name` most likely means: itself, one often called so, one that looks alike; else the empty
    string."""
    from difflib import get_close_matches

    lower = {other.lower(): other for other in reversed(others)}
    known = [lower[alias] for alias in (name, *_ALSO_CALLED.get(name, ())) if alias in lower]
    alike = get_close_matches(name.lower(), lower, n=1, cutoff=0.6)
    return name if name in others else next(iter(known + [lower[match] for match in alike]), "")


def _example(names: list[str]) -> str:
    """A template over `names`: `"{text} ->: {labels}"`."""
    return '"' + " ->: ".join(f"{{{name}}}" for name in names) + '"'


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns what the operating system says about a file into a DataError."""
    try:
        yield
    except PermissionError:
        raise DataError(f"{path}: permission denied", f"Make it readable: chmod u+r {path.name}") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder, not a file", "Name a file in it, or rename the folder") from None
    except FileNotFoundError:
        raise DataError(
            f"no such file: {path}", "It was there a moment ago: is something else writing to the folder?"
        ) from None
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror or error})", "Copy it to a local disk and try again"
        ) from None
