"""JSON to rows, each with its line: JSON lines, an array, or an object around the rows (`json_objects.py`).

What a file holds is told by its first signs, whatever it is called: `[` opens an array, `{` a line or an object around
everything. Python's parser does the parsing, with four of its habits turned off: it keeps the last of two equal keys
without a word, it stops at integers of 4,301 digits, it leaves with a RecursionError where brackets nest too deep, and
its messages count from the start of the text they were given."""

from __future__ import annotations

from json import JSONDecodeError
from pathlib import Path
from typing import BinaryIO

from florilegium.data.json_array import cut_array
from florilegium.data.json_objects import DECODER, DoubledKey, objects_of, rows_of
from florilegium.data.lines import Decoder, Piece, open_text, physical_lines
from florilegium.data.quote import SKIP
from florilegium.data.raw_rows import Problem, Raw, Stream, name_of, start_of
from florilegium.errors import DataError

_MOST_OBJECT_BYTES = 1 << 28
_ROW = 'a row is an object such as {"quote": "Be kind.", "tags": ["life"]}'


def read_json(path: Path) -> Stream:
    """The rows of a file of JSON, of whatever form."""
    decoder = Decoder()
    with open_text(path) as (file, notes):
        yield from notes
        first = _first_sign(file)
        if first == b"[" and not _is_a_list_a_line(file):
            yield from _array(path, file, decoder)
        elif first == b"{" and _is_around_everything(file):
            yield from _objects(path, file, decoder)
        else:
            yield from _lines(path, file, decoder)
    yield from decoder.notes(name_of(path))


def _first_sign(file: BinaryIO) -> bytes:
    start = file.tell()
    head = file.read(1 << 16)
    file.seek(start)
    return head.lstrip()[:1]


def _is_around_everything(file: BinaryIO) -> bool:
    """Whether an object begins that may hold all rows: it opens on its first line and does not close there, or no line
    follows. JSON lines that begin so are broken at their first, and are then read as lines after all."""
    start = file.tell()
    first = next((line for line in iter(lambda: file.readline(_MOST_OBJECT_BYTES), b"") if line.strip()), b"").rstrip()
    follows = file.read(1 << 16)
    file.seek(start)
    alone = not follows.strip() and len(follows) < 1 << 16
    return alone or first.endswith((b"{", b"[", b",", b":"))


def _is_a_list_a_line(file: BinaryIO) -> bool:
    """Whether each line is a list of its own: the first two that are filled both open one, and the first is whole."""
    start = file.tell()
    filled = (line for line in iter(lambda: file.readline(1 << 20), b"") if line.strip())
    one, two = next(filled, b"").strip(), next(filled, b"").strip()
    file.seek(start)
    return one.startswith(b"[") and one.endswith(b"]") and two.startswith(b"[") and _is_list(one)


def _is_list(line: bytes) -> bool:
    try:
        return isinstance(DECODER.decode(line.decode("utf-8", "replace")), list)
    except (ValueError, RecursionError):
        return False


def _objects(path: Path, file: BinaryIO, decoder: Decoder) -> Stream:
    """An object around the rows, or objects over several lines each."""
    start, name = file.tell(), name_of(path)
    text = decoder.decode(Piece(file.read(), 1, start), name)
    found = objects_of(text) if isinstance(text, str) else []
    if len(found) == 1 and (rows := rows_of(found[0])) is not None:
        yield from rows.notes(name)
        for number, row in enumerate(rows.rows, 1):
            yield Raw(f"{name}: row {number}", row)
    elif len(found) > 1:
        for number, row in enumerate(found, 1):
            yield Raw(f"{name}: row {number}", row)
    else:
        file.seek(start)
        yield from _lines(path, file, decoder)


def _lines(path: Path, file: BinaryIO, decoder: Decoder) -> Stream:
    name = name_of(path)
    for piece in physical_lines(file):
        if piece.data is None or piece.data.strip():
            yield parse_row(piece, f"{name}:{piece.line}", decoder)


def _array(path: Path, file: BinaryIO, decoder: Decoder) -> Stream:
    cutter, pieces = cut_array(file)
    name, number = name_of(path), 0
    last: Raw | Problem | None = None
    for number, piece in enumerate(pieces, 1):
        if last is not None:
            yield last
        last = parse_row(piece, f"{name}:{piece.line} (row {number})", decoder)
    trails = number > 1 and cutter.closed and isinstance(last, Problem) and last.cause == _NOTHING
    if last is not None and not trails:  # a comma before the closing bracket is a slip, and no row
        yield last
    if cutter.trailing:
        where = f"{name}:{cutter.trailing.line}: byte {cutter.trailing.offset}"
        raise DataError(
            f"{where}: something follows the end of the array", "Put all rows into one array, or one row on each line"
        )
    if not cutter.closed:
        place = f"{name}:{cutter.line} (row {number + 1})"
        yield Problem(place, f"the file ends at byte {cutter.offset}, before the array's closing ]", *_TRUNCATED)


_TRUNCATED = (f"The file is truncated: download it again or repair its end, {SKIP}", "truncated JSON")
_NOTHING = "nothing between two commas"


def parse_row(piece: Piece, place: str, decoder: Decoder) -> Raw | Problem:
    """The JSON value of a piece, whatever it is, or what is wrong with it."""
    text = decoder.decode(piece, place)
    if isinstance(text, Problem):
        return text
    try:
        return Raw(place, DECODER.decode(text))
    except JSONDecodeError as error:
        return _not_json(place, text, error, piece)
    except DoubledKey as error:
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
        return Problem(place, _NOTHING, f"Remove a comma, {SKIP}")
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
    return Problem(place, f"invalid JSON: {cause}", f"Fix the row, {SKIP}", kind="invalid JSON")
