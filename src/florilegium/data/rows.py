"""What reading comes to: sound quotes, where each stood, and what was met on the way to them."""

from __future__ import annotations

import hashlib
import json.encoder
from dataclasses import dataclass

from florilegium.data.quote import Quote, Value
from florilegium.data.raw_rows import Problem
from florilegium.data.template import Template

SHOWN_SKIPPED = 10


@dataclass(frozen=True)
class Rows:
    """Sound quotes and what was met on the way to them. `num_read == len(quotes) + duplicates + len(skipped)`.

    `authors` has the text of each row's column of authors, empty where there is none; `repaired` counts rows whose
    encoding was mended; `notes` are sentences for the user: what was taken for what, converted, left alone. Rows from
    `held_out_from` on are held out by the data themselves."""

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
    notes: tuple[str, ...] = ()
    held_out_from: int | None = None


def reading_sentences(rows: Rows) -> list[str]:
    """What reading has to say: what was taken for what, and the first of the rows that were left out."""
    lines = [f"reading  {note}" for note in rows.notes]
    lines += [f"skipped  {problem.place}: {problem.cause}" for problem in rows.skipped[:SHOWN_SKIPPED]]
    if len(rows.skipped) > SHOWN_SKIPPED:
        lines.append(f"skipped  {len(rows.skipped) - SHOWN_SKIPPED:,} more rows (all of them are in data.json)")
    return lines


def digest_of(quotes: list[Quote], template: Template) -> str:
    """sha256 over the quotes in their order, in hex: the same wherever and in whatever kind of file the rows lay."""
    digest, heads = hashlib.sha256(), [(name, f"[{_quoted(name)}, ") for name in template.columns]
    for quote in quotes:
        digest.update(_canonical(quote, heads))
    return digest.hexdigest()


def key_of(text: str) -> bytes:
    """What tells a rendered text from all others. Two quotes that differ cannot both be read back from one text."""
    return hashlib.sha256(text.encode()).digest()[:16]


def _canonical(quote: Quote, heads: list[tuple[str, str]]) -> bytes:
    """The line that `json.dumps` writes of [[name, value], ...], without making an encoder for each row; `heads` are
    the columns with what stands before their values."""
    pairs = [f"{head}{_written(quote[name])}]" for name, head in heads]
    return f"[{', '.join(pairs)}]\n".encode("ascii")


def _written(value: Value) -> str:
    return _quoted(value) if isinstance(value, str) else f"[{', '.join(map(_quoted, value))}]"


_quoted = json.encoder.encode_basestring_ascii
