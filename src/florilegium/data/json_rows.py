"""JSON lines and JSON arrays: pieces of a file to rows, each with its line.

`.jsonl` is read as lines. `.json` is an array when it begins with `[`, and lines when not. Python's parser does the
parsing, with four of its habits turned off: it keeps the last of two equal keys without a word, it stops at integers of
4,301 digits, it leaves with a RecursionError where brackets nest too deep, and its messages count from the start of the
text they were given."""

from __future__ import annotations

import json
from json import JSONDecodeError
from pathlib import Path
from typing import BinaryIO

from florilegium.data.json_array import cut_array
from florilegium.data.lines import Piece, decode, open_text, physical_lines
from florilegium.data.quote import SKIP, first_doubled
from florilegium.data.raw_rows import Found, Problem, Raw, Stream, name_of, start_of
from florilegium.errors import DataError

_ROW = 'a row is an object such as {"quote": "Be kind.", "tags": ["life"]}'


class _DoubledKey(ValueError):
    pass


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise _DoubledKey(first_doubled(name for name, _ in pairs))
    return row


# One for all rows: `json.loads` with a hook builds a decoder each time.
_DECODER = json.JSONDecoder(parse_int=float, object_pairs_hook=_object)


def read_jsonl(path: Path) -> Stream:
    """The rows of a file of JSON lines; blank lines are passed over."""
    with open_text(path) as file:
        yield from _lines(path, file)


def read_json(path: Path) -> Stream:
    """The rows of a JSON array, or of JSON lines in a `.json` file."""
    with open_text(path) as file:
        start = file.tell()
        is_array = file.read(1 << 16).lstrip().startswith(b"[")
        file.seek(start)
        yield from _array(path, file) if is_array else _lines(path, file)


def _lines(path: Path, file: BinaryIO) -> Stream:
    name = name_of(path)
    for piece in physical_lines(file):
        if piece.data is None or piece.data.strip():
            yield parse_row(piece, f"{name}:{piece.line}")


def _array(path: Path, file: BinaryIO) -> Stream:
    cutter, pieces = cut_array(file)
    name, number = name_of(path), 0
    for number, piece in enumerate(pieces, 1):
        yield parse_row(piece, f"{name}:{piece.line} (row {number})")
    if cutter.trailing:
        where = f"{name}:{cutter.trailing.line}: byte {cutter.trailing.offset}"
        raise DataError(
            f"{where}: something follows the end of the array", "Put all rows into one array, or one row on each line"
        )
    if not cutter.closed:
        place = f"{name}:{cutter.line} (row {number + 1})"
        yield Problem(place, f"the file ends at byte {cutter.offset}, before the array's closing ]", *_TRUNCATED)


_TRUNCATED = (f"It was cut off: get it again or mend its end, {SKIP}", "truncated JSON")


def parse_row(piece: Piece, place: str) -> Found:
    """The JSON value of a piece, whatever it is, or what is wrong with it."""
    text = decode(piece, place)
    if isinstance(text, Problem):
        return text
    try:
        return Raw(place, _DECODER.decode(text))
    except JSONDecodeError as error:
        return _not_json(place, text, error, piece)
    except _DoubledKey as error:
        return Problem(
            place,
            f"the key {error.args[0][:80]!r} stands twice in one object",
            f"Keep one of them, {SKIP}",
            kind="doubled key",
        )
    except RecursionError:
        return Problem(place, "the JSON nests too deep", f"Flatten it: {_ROW}; {SKIP}")


def _not_json(place: str, text: str, error: JSONDecodeError, piece: Piece) -> Problem:
    if not text:
        return Problem(place, "nothing between two commas", f"Remove a comma, {SKIP}")
    column = error.colno + (piece.column - 1 if error.lineno == 1 else 0)
    cause = f"{error.msg} at line {piece.line + error.lineno - 1}, column {column}, in {start_of(text)}"
    if text.strip() in ("[", "{", "]", "}"):
        return Problem(
            place,
            f"invalid JSON: {cause}",
            "Put each row on one line, or all rows into one [...] in a .json file",
            kind="invalid JSON",
        )
    if error.msg.startswith("Unterminated string") or error.pos >= len(text.rstrip()):
        return Problem(place, f"truncated JSON: {cause}", *_TRUNCATED)
    return Problem(place, f"invalid JSON: {cause}", f"Mend the row, {SKIP}", kind="invalid JSON")
