"""Rows in: DATA to a list of Quotes that are known to be sound, before anything else of the run begins.

Every row is looked at, one by one, and the first bad one ends the reading with its file, its line and what to do about
it: a null in row 1,731 must not come up an hour into training. With `skip_bad_rows` the bad ones are collected in
`skipped` in place of that.

A row is good when it is an object with all columns of the template, each of them text (or, in a list column, a list of
text or text with commas), the main one not empty, and when `template.render` can promise to read it back. Exact
duplicates (the same after normalisation, in every column of the template) are dropped and counted."""

from __future__ import annotations

import hashlib
import json.encoder
import sys
from dataclasses import dataclass, field
from pathlib import Path

from florilegium.data.lines import MAX_ROW_BYTES, OVER_LIMIT
from florilegium.data.mojibake import is_broken, mend, mend_quote
from florilegium.data.quote import SKIP, Quote, Value, kind_of
from florilegium.data.raw_rows import Problem, Raw, no_such_column
from florilegium.data.sources import AUTHOR, open_source
from florilegium.data.template import DEFAULT_TEMPLATE, Template
from florilegium.errors import DataError

LONGEST_AUTHOR = 1000


@dataclass(frozen=True)
class Rows:
    """Sound quotes and what was met on the way to them. `num_read == len(quotes) + duplicates + len(skipped)`.

    `authors` has the text of each row's column `author`, empty where there is none; `repaired` counts rows whose
    encoding was mended."""

    quotes: list[Quote]
    places: list[str]
    template: Template
    source: str
    digest: str
    columns: tuple[str, ...]
    duplicates: int
    skipped: list[Problem]
    num_read: int
    authors: list[str]
    repaired: int


def read_rows(
    data: str | Path,
    template_text: str = DEFAULT_TEMPLATE,
    *,
    skip_bad_rows: bool = False,
    fix_encoding: bool = False,
    split: str = "train",
) -> Rows:
    """Read and check all rows of DATA: `sample`, a file, a folder of files, or a Hub id (`split` counts only there).
    With `fix_encoding`, text whose encoding is broken is mended before anything else looks at it.

    A column that holds a list in the first row that has one of text or list for it is a list column; `tags` always is
    one.

    Raises: DataError for DATA that cannot be read, for the first bad row (with `skip_bad_rows`: when no good one is
    left); UsageError for a template that is none."""
    reading = _Reading(Template.from_text(template_text), skip_bad_rows, fix_encoding)
    for found in open_source(data, reading.template.columns, split):
        reading.num_read += 1
        problem = found if isinstance(found, Problem) else reading.take(found)
        if problem:
            reading.refuse(problem)
    return reading.finish(str(data))


@dataclass
class _Reading:
    """What `read_rows` knows so far."""

    template: Template
    skip_bad_rows: bool
    fix_encoding: bool = False
    quotes: list[Quote] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    columns: dict[str, None] = field(default_factory=dict)  # a dict as an ordered set
    skipped: list[Problem] = field(default_factory=list)
    seen: set[bytes] = field(default_factory=set)
    undecided: set[str] = field(default_factory=set)
    duplicates: int = 0
    num_read: int = 0
    authors: list[str] = field(default_factory=list)
    repaired: int = 0

    def __post_init__(self) -> None:
        self.undecided = set(self.template.columns) - {"tags"}

    def take(self, raw: Raw) -> Problem | None:
        """Keep the row's quote, count it as a duplicate, or say what is wrong with it."""
        if not isinstance(raw.row, dict):
            example = ", ".join(f'"{name}": ...' for name in self.template.columns)
            return Problem(raw.place, f"the row is {kind_of(raw.row)}, not an object", f"Write {{{example}}}, {SKIP}")
        self._learn_lists(raw.row)
        if not self.quotes and not raw.row.keys() >= set(self.template.columns):
            return no_such_column(raw.place, list(raw.row), self.template.columns)
        try:
            quote = self.template.normalise(raw.row)
            mended = self.template.normalise(mend_quote(quote)) if self.fix_encoding and is_broken(quote) else quote
            text = self.template.render_sound(mended)
        except DataError as error:
            return Problem(raw.place, error.cause, error.fix)
        if len(text) * 4 > MAX_ROW_BYTES and len(text.encode()) > MAX_ROW_BYTES:
            return Problem(raw.place, OVER_LIMIT, f"Shorten it, {SKIP}")
        if self._keep(mended, text, raw):
            self.repaired += mended != quote
        return None

    def refuse(self, problem: Problem) -> None:
        if not self.skip_bad_rows:
            raise problem.error()
        self.skipped.append(problem)

    def finish(self, source: str) -> Rows:
        if not self.quotes:
            first = self.skipped[0]
            raise DataError(
                f"{source}: none of its {self.num_read:,} rows is good; {first.place}: {first.cause}", first.fix
            )
        return Rows(
            quotes=self.quotes,
            places=self.places,
            template=self.template,
            source=source,
            digest=digest_of(self.quotes, self.template),
            columns=tuple(self.columns),
            duplicates=self.duplicates,
            skipped=self.skipped,
            num_read=self.num_read,
            authors=self.authors,
            repaired=self.repaired,
        )

    def _learn_lists(self, row: dict[str, object]) -> None:
        """A column is decided by the first row that holds text or a list there; in rows before that one it was bad
        either way."""
        for name in [name for name in self.undecided if isinstance(row.get(name), str | list)]:
            self.undecided.discard(name)
            if isinstance(row[name], list):
                self.template = Template.from_text(self.template.text, (*self.template.list_columns, name))

    def _keep(self, quote: Quote, text: str, raw: Raw) -> bool:
        """Whether the quote is new; a second one that is equal is counted and left out. Its text tells: two quotes that
        differ cannot both be read back from one text."""
        key = hashlib.sha256(text.encode()).digest()[:16]
        if key in self.seen:
            self.duplicates += 1
            return False
        self.seen.add(key)
        self.quotes.append(quote)
        self.places.append(raw.place)
        row = raw.row if isinstance(raw.row, dict) else {}
        if row.keys() - self.columns.keys():
            self.columns.update(dict.fromkeys(row))
        # Data stays as it is: secrets are taken out of what is printed, where it is printed.
        author = row.get(AUTHOR)
        name = " ".join(author[:LONGEST_AUTHOR].split()) if isinstance(author, str) else ""
        self.authors.append(sys.intern(mend(name) if self.fix_encoding else name))
        return True


def digest_of(quotes: list[Quote], template: Template) -> str:
    """sha256 over the quotes in their order, in hex: the same wherever and in whatever kind of file the rows lay."""
    digest = hashlib.sha256()
    for quote in quotes:
        digest.update(_canonical(quote, template) + b"\n")
    return digest.hexdigest()


def _canonical(quote: Quote, template: Template) -> bytes:
    """What `json.dumps` writes of [[name, value], ...], without making an encoder for each row."""
    pairs = (f"[{_quoted(name)}, {_written(quote[name])}]" for name in template.columns)
    return f"[{', '.join(pairs)}]".encode("ascii")


def _written(value: Value) -> str:
    return _quoted(value) if isinstance(value, str) else f"[{', '.join(map(_quoted, value))}]"


_quoted = json.encoder.encode_basestring_ascii
