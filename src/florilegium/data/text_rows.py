"""Plain text to rows: a quote a line, a quote and its author, fortunes between lines of `%`, poems between blank lines.

    Be kind.                         a line is a text
    Be kind. - Ada Example           " - ", " -- " or " — " before a name, in most lines: the author
    Be kind.                         lines of a single % part texts; a last line that begins with -- is the author
    %
    The lamp is low,                 no line ends a sentence, and blank lines stand between: each part is a text
    the river is high.

    quote | tags                     the same sign in each line, and columns behind it: a table, read as CSV is
    - Be kind.    1. Be kind.        marks of a list before nearly all lines are taken off

Of Markdown the rows of its table, its block quotes, the items of its lists, or its paragraphs; headings, rules and code
are passed over."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from florilegium.data.csv_rows import read_csv
from florilegium.data.lines import Decoder, Piece, open_text, physical_lines
from florilegium.data.raw_rows import Note, Problem, Raw, Stream, name_of
from florilegium.data.text_tables import ARROW, is_rendered, is_table

_AUTHOR = re.compile(r"^(.*\S)\s+(?:-{1,3}|–|—|―|~)\s*([^\W\d_][^\n]{1,60})$", re.DOTALL)
_SIGNATURE = re.compile(r"^\s*(?:-{1,3}|–|—|―)\s*(\S.*)$")
_ITEM = re.compile(r"^\s*(?:[-*+•]|\d{1,4}[.)])\s+(.*)$")
_BLOCK_QUOTE = re.compile(r"^\s{0,3}>[\s>]*(.*)$")
_EMPHASISED_AUTHOR = re.compile(r"^(.*\S)\s+(?:[-–—]\s*)?([*_]{1,2})([^*_\n]{2,60})\2\s*$", re.DOTALL)
_HEADING = re.compile(r"^\s*(?:#{1,6}\s|={3,}\s*$|-{3,}\s*$|\|)")
_RULE_OF_TABLE = re.compile(r"^\s*\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)+\|?\s*$")
_CELL_ENDS = re.compile(r"(?<!\\)\|")
_MOST_AUTHORS, _MOST_ITEMS = 0.6, 0.9
_HEAD_LINES = 400


class _Text(NamedTuple):
    text: str
    line: int


def read_text(path: Path) -> Stream:
    """The texts of a plain file, in a column `text`; those of `author`, where there are such."""
    yield from _read(path, is_markdown=False)


def read_markdown(path: Path) -> Stream:
    """The list items of a Markdown file, or its paragraphs."""
    yield from _read(path, is_markdown=True)


def _read(path: Path, *, is_markdown: bool) -> Stream:
    name, decoder = name_of(path), Decoder()
    with open_text(path) as (file, notes):
        found = [_line(piece, name, decoder) for piece in physical_lines(file)]
    lines = [line for line in found if isinstance(line, _Text)]
    # as they stand: an empty last column is white space
    head = [line.text for line in lines if line.text.strip()][:_HEAD_LINES]
    if not is_markdown and is_table(head):
        yield from read_csv(path)
        return
    yield from notes
    yield from (line for line in found if isinstance(line, Problem))
    lines = [_Text(line.text.rstrip(), line.line) for line in lines]
    yield from _rendered(name, lines) if is_rendered(head) else _texts(name, lines, is_markdown)
    yield from decoder.notes(name)


def _line(piece: Piece, name: str, decoder: Decoder) -> _Text | Problem:
    text = decoder.decode(piece, f"{name}:{piece.line}")
    return _Text(text.rstrip("\r"), piece.line) if isinstance(text, str) else text


def _rendered(name: str, lines: Iterable[_Text]) -> Iterator[Raw]:
    for line in lines:
        if line.text:
            text, _, tags = line.text.partition(ARROW)
            yield Raw(f"{name}:{line.line}", {"quote": text, "tags": tags})


def _texts(name: str, lines: list[_Text], is_markdown: bool) -> Stream:
    texts, form = _markdown(lines) if is_markdown else _plain(lines)
    table = _table(lines) if is_markdown else []
    if table and len(table) >= len(texts):
        yield Note(f"{name}: the rows of its table")
        yield from (Raw(f"{name}:{number}", row) for number, row in table)
        return
    yield Note(f"{name}: {form}")
    yield from _with_authors(name, texts)


def _plain(lines: list[_Text]) -> tuple[list[_Text], str]:
    if any(line.text.strip() == "%" for line in lines):
        return list(_joined(lines, {"%"})), "texts separated by % lines"
    parts = list(_joined(lines, {""}))
    if len(parts) > 1 and _are_verses([line.text for line in lines[:_HEAD_LINES]], parts):
        return parts, "texts separated by blank lines"
    filled = [line for line in lines if line.text.strip()]
    marked = [_ITEM.match(line.text) for line in filled]
    if len(filled) > 1 and sum(map(bool, marked)) >= _MOST_ITEMS * len(filled):
        texts = [_Text(found[1] if found else line.text, line.line) for found, line in zip(marked, filled, strict=True)]
        return texts, "one text per line, list marks removed"
    return filled, "one text per line"


def _are_verses(lines: Sequence[str], parts: Sequence[_Text]) -> bool:
    """Whether blank lines part texts of several lines: most parts have some, and most of their lines end no sentence."""
    several = [part for part in parts if "\n" in part.text]
    filled = [line for line in lines if line.strip()]
    ends = sum(line.rstrip("\"'”’»)").endswith((".", "!", "?", "。", "！", "？", "…")) for line in filled)
    named = sum(_SIGNATURE.match(line) is not None for line in filled)
    return len(several) >= 0.6 * len(parts) and (ends <= 0.6 * len(filled) or named >= 0.6 * len(parts))


def _joined(lines: Iterable[_Text], between: set[str]) -> Iterator[_Text]:
    """The texts between lines that are one of `between`."""
    part: list[_Text] = []
    for line in [*lines, _Text(next(iter(between)), 0)]:
        if line.text.strip() not in between:
            part.append(line)
        elif any(found.text.strip() for found in part):
            yield _Text("\n".join(found.text for found in part).strip("\n"), part[0].line)
            part = []
        else:
            part = []


def _markdown(lines: list[_Text]) -> tuple[list[_Text], str]:
    plain, in_code = [], False
    for line in lines:
        if line.text.lstrip().startswith("```"):
            in_code = not in_code
        elif not in_code and not _HEADING.match(line.text):
            plain.append(line)
    quoted, items = list(_block_quotes(plain)), list(_items(plain))
    if quoted and len(quoted) >= len(items):
        return quoted, "one text per block quote"
    if items:
        return items, "one text per list item"
    return list(_joined(plain, {""})), "one text per paragraph"


def _block_quotes(lines: Iterable[_Text]) -> Iterator[_Text]:
    """Lines behind `>` that follow one another are one text; empty ones among them are left out."""
    part: list[str] = []
    start = 0
    for line in [*lines, _Text("", 0)]:
        found = _BLOCK_QUOTE.match(line.text)
        if found:
            start = start if part else line.line
            part += [found[1].rstrip()] if found[1].strip() else []
        elif part:
            yield _Text("\n".join(part), start)
            part = []


def _items(lines: Iterable[_Text]) -> Iterator[_Text]:
    """The items of lists, with the lines that go on with them."""
    item: _Text | None = None
    for line in lines:
        found = _ITEM.match(line.text)
        if item and not found and line.text[:1].isspace() and line.text.strip():
            item = _Text(f"{item.text} {line.text.strip()}", item.line)
            continue
        if item:
            yield item
        item = _Text(found[1], line.line) if found and found[1].strip() else None
    if item:
        yield item


def _table(lines: Sequence[_Text]) -> list[tuple[int, dict[str, object]]]:
    """The rows of the first table, with their lines."""
    at = next(
        (i for i, line in enumerate(lines) if i and _RULE_OF_TABLE.match(line.text) and "|" in lines[i - 1].text), 0
    )
    if not at:
        return []
    names = _cells(lines[at - 1].text)
    below = takewhile(lambda line: "|" in line.text, lines[at + 1 :])
    return [(line.line, dict(zip(names, _cells(line.text), strict=False))) for line in below]


def _cells(line: str) -> list[str]:
    inner = line.strip().removeprefix("|").removesuffix("|")
    return [cell.strip().replace("\\|", "|") for cell in _CELL_ENDS.split(inner)]


def _with_authors(name: str, texts: Sequence[_Text]) -> Iterator[Raw]:
    """Rows, with a column `author` where most texts end in one."""
    parted = [_without_author(text.text) for text in texts[:_HEAD_LINES]]
    has_authors = sum(author != "" for _, author in parted) >= max(2, _MOST_AUTHORS * len(parted))
    for text in texts:
        quote, author = _without_author(text.text) if has_authors else (text.text.strip(), "")
        row: dict[str, object] = {"text": quote, "author": author} if has_authors else {"text": quote}
        yield Raw(f"{name}:{text.line}", row)


def _without_author(text: str) -> tuple[str, str]:
    """The text and its author; an empty author where none is told from it."""
    body, _, last = text.rstrip().rpartition("\n")
    if body.strip() and (signed := _SIGNATURE.match(last)):
        return body.strip(), signed[1].strip()
    found = _EMPHASISED_AUTHOR.match(text.strip())
    if found:
        return found[1], found[3].strip()
    found = _AUTHOR.match(text.strip())
    if found and len(found[2].split()) <= 6 and found[2].rstrip()[-1:] not in "?!,;:":
        return found[1], found[2].strip()
    return text.strip(), ""
