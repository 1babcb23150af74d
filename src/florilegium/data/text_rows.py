"""Plain text to rows: a quote a line, a quote and its author, fortunes between lines of `%`, poems between blank lines.

    Be kind.                         a line is a text
    Be kind. - Ada Example           " - ", " -- " or " — " before a name, in most lines: the author
    Be kind.                         lines of a single % part texts; a last line that begins with -- is the author
    %
    The lamp is low,                 no line ends a sentence, and blank lines stand between: each part is a text
    the river is high.

Of Markdown the items of its lists, or its paragraphs; headings, rules and code are passed over."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from florilegium.data.lines import Decoder, open_text, physical_lines
from florilegium.data.raw_rows import Note, Problem, Raw, Stream, name_of

_AUTHOR = re.compile(r"^(.*\S)\s+(?:-{1,3}|–|—|―|~)\s*([^\W\d_][^\n]{1,60})$", re.DOTALL)
_SIGNATURE = re.compile(r"^\s*(?:-{1,3}|–|—|―)\s*(\S.*)$")
_ITEM = re.compile(r"^\s*(?:[-*+•>]|\d{1,4}[.)])\s+(.*)$")
_EMPHASISED_AUTHOR = re.compile(r"^(.*\S)\s+(?:[-–—]\s*)?([*_]{1,2})([^*_\n]{2,60})\2\s*$", re.DOTALL)
_HEADING = re.compile(r"^\s*(?:#{1,6}\s|={3,}\s*$|-{3,}\s*$|\|)")
_MOST_AUTHORS = 0.6
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
        yield from notes
        lines: list[_Text] = []
        for piece in physical_lines(file):
            text = decoder.decode(piece, f"{name}:{piece.line}")
            if isinstance(text, Problem):
                yield text
            else:
                lines.append(_Text(text.rstrip(), piece.line))
    texts, form = _markdown(lines) if is_markdown else _plain(lines)
    yield Note(f"{name}: {form}")
    yield from _with_authors(name, texts)
    yield from decoder.notes(name)


def _plain(lines: list[_Text]) -> tuple[list[_Text], str]:
    if any(line.text.strip() == "%" for line in lines):
        return list(_joined(lines, {"%"})), "a text between lines of %"
    parts = list(_joined(lines, {""}))
    if len(parts) > 1 and _are_verses([line.text for line in lines[:_HEAD_LINES]], parts):
        return parts, "a text between blank lines"
    return [line for line in lines if line.text.strip()], "a text a line"


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
    items = [_Text(found[1], line.line) for line in plain if (found := _ITEM.match(line.text)) and found[1].strip()]
    if items:
        return items, "a text an item of its lists"
    return list(_joined(plain, {""})), "a text a paragraph"


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
