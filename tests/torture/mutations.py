"""Good data files by the dozen, a million ways to spoil them, and what `read_rows` must make of each.

    good_files   small ones of every kind: JSON lines, arrays, CSV, Parquet; with and without CRLF, escapes, a BOM, other columns
    mutate       (tests/data/test_mutations.py) one to four bytes, splinters, cuts, doublings
    Tally.judge  reads the mutant as a user would, and holds the outcome against what is promised

Promised is: nothing but a DataError; in it the file and a place in it, a line that the file has; rows that are accepted
come back from their text as they are. For a share more is asked: the lines before the one that was named are good by
themselves, and that one is not; the accepted rows written anew have the same digest. The files lie in memory, and the
reader is the one that everybody uses."""

from __future__ import annotations

import io
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from florilegium.data import Problem, Rows, read_rows
from florilegium.errors import DataError
from tests.data.test_mutations import mutate

SHARES = {".jsonl": 0.40, ".json": 0.30, ".csv": 0.25, ".parquet": 0.05}
ROWS: list[dict[str, Any]] = [
    {"quote": "Be kind, “always”.", "tags": ["life", "kindness"]},
    {"quote": "Der Fluß\nfließt → ans Meer 🌊", "tags": []},
    {"quote": "Say \"yes\" - or 'no' ->, then: go\\on", "tags": ["go on", "a-b", "#c"]},
]
MORE = [
    {**row, "author": name, "n": 1.5, "deep": {"a": [None, {"b": "]}"}]}}
    for row, name in zip(ROWS, ("Ö. Ü", "", "x"), strict=True)
]
TEXT_TAGS = [{**row, "tags": ", ".join(row["tags"])} for row in ROWS]

WHOLE = re.compile(
    r"(the file has no rows|not a Parquet file, or a damaged one|no column |two columns are called "
    r"|column '[^']+' would be [\d,]{5,} (bytes|items) in memory|[\d,]+ rows in [\d,]+ bytes)"
)
_PLAIN = json.JSONDecoder(parse_int=float)  # an int of 5,000 digits is refused
ROW = re.compile(r":\d+ \(row (\d+)\): (.*)")
LINE = re.compile(r":(\d+)(?: \(row \d+\))?: ")
PLACE = re.compile(r":\d+: |:\d+ \(row \d+\): |: row \d+: |: byte \d+: |:\d+: byte \d+: ")


def good_files() -> dict[str, list[bytes]]:
    """Suffix to files that are right, three rows each."""
    lines = [_lines(ROWS), _lines(MORE, ensure_ascii=True, end="\r\n"), b"\xef\xbb\xbf" + _lines(TEXT_TAGS, end="\n\n")]
    arrays = [
        json.dumps(ROWS, indent=1, ensure_ascii=False).encode(),
        json.dumps(MORE).encode(),
        b"\xef\xbb\xbf\n" + _dense(TEXT_TAGS),
    ]
    tables = [_csv(ROWS, ["quote", "tags"]), _csv(MORE, ["n", "quote", "author", "tags"], "\r\n")]
    tables.append(b"\xef\xbb\xbf" + _csv(ROWS, ["tags", "quote"]))
    parquet = [_parquet(ROWS, "NONE"), _parquet(MORE, "SNAPPY"), _parquet(TEXT_TAGS * 5, "NONE", row_group_size=4)]
    return {".jsonl": lines, ".json": [*arrays, lines[0]], ".csv": tables, ".parquet": parquet}


def _lines(rows: list[dict[str, Any]], ensure_ascii: bool = False, end: str = "\n") -> bytes:
    return "".join(json.dumps(row, ensure_ascii=ensure_ascii) + end for row in rows).encode()


def _dense(rows: list[dict[str, Any]]) -> bytes:
    return json.dumps(rows, separators=(",", ":"), ensure_ascii=False).encode()


def _csv(rows: list[dict[str, Any]], columns: list[str], end: str = "\n") -> bytes:
    import csv

    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=end)
    writer.writerow(columns)
    for row in rows:
        writer.writerow([", ".join(row[c]) if isinstance(row[c], list) else row[c] for c in columns])
    return text.getvalue().encode()


def _parquet(rows: list[dict[str, Any]], compression: str, **more: Any) -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file, compression=compression, **more)
    return file.getvalue()


def mutants(suffix: str, count: int, draw: random.Random) -> Iterator[bytes]:
    """Every other Parquet file keeps its length: else the sums of lengths at its end would be all that is ever
    wrong."""
    good = good_files()[suffix]
    for number in range(count):
        change = flip if suffix == ".parquet" and number % 2 else mutate
        yield change(good[number % len(good)], draw)


def flip(good: bytes, draw: random.Random) -> bytes:
    data = bytearray(good)
    for _ in range(draw.randint(1, 4)):
        data[draw.randrange(len(data))] = draw.randrange(256)
    return bytes(data)


@dataclass
class Tally:
    """What was tried and what came of it; `wrong` are outcomes that break a promise, with the bytes that did it."""

    folder: Path
    tried: int = 0
    refused: int = 0
    skipped: int = 0
    verified: int = 0
    reread: int = 0
    wrong: list[tuple[str, str, bytes]] = field(default_factory=list)

    def judge(self, suffix: str, data: bytes, draw: random.Random) -> None:
        path = self.folder / f"mutant{suffix}"
        path.write_bytes(data)
        self.tried += 1
        deeper, skip = draw.random() < 0.02, draw.random() < 0.3
        try:
            rows = read_rows(path, skip_bad_rows=skip, fix_encoding=draw.random() < 0.1)
        except DataError as error:
            self.refused += 1
            what = misplaced(path.name, error.cause, error.fix, data)
            if not what and deeper and "none of its" not in error.cause:
                what = self._other_place(suffix, error.cause, data, skip)
        except Exception as error:  # what a user would see as a traceback
            what = f"{type(error).__name__}: {error}"
        else:
            self.skipped += len(rows.skipped)
            what = unsound(path.name, rows, data) or (self._reread(rows) if deeper else "")
        if what:
            self.wrong.append((suffix, what, data))

    def add(self, other: Tally) -> None:
        self.tried += other.tried
        self.refused += other.refused
        self.skipped += other.skipped
        self.verified += other.verified
        self.reread += other.reread
        self.wrong += other.wrong

    def _other_place(self, suffix: str, cause: str, data: bytes, skip: bool) -> str:
        """The place of a refusal is checked by other means; nothing where there are none."""
        found = ROW.search(cause)
        if found is None and suffix != ".jsonl":
            return ""
        self.verified += 1
        return other_row(cause, int(found[1]), found[2], data, skip) if found else self._other_line(cause, data, skip)

    def _other_line(self, cause: str, data: bytes, skip: bool) -> str:
        """The place of a refusal is checked: what stands before that line is good, with that line it is not. Where bad rows
        are passed over, "good" is also what has nothing but them."""
        found = LINE.search(cause)
        if found is None:
            return ""
        lines, number = data.split(b"\n"), int(found[1])
        path = self.folder / "part.jsonl"
        for count, is_good in ((number - 1, True), (number, False)):
            path.write_bytes(
                b"".join(line + b"\n" for line in lines[:count])
            )  # whole lines: \r alone would end them else
            try:
                read_rows(path, skip_bad_rows=skip)
                good, said = True, ""
            except DataError as error:
                # Of few lines a NUL may be so large a part that they look like UTF-16: also a refusal, at another
                # place.
                passed_over = "the file has no rows", "byte 0", "none of its"
                good, said = any(words in error.cause for words in passed_over), error.cause
                if not is_good and "byte 0" in error.cause:
                    continue
            if good and not is_good and count == 1 and "Extra data" in cause:
                continue  # objects one after another are a form of their own, where they are all that the file has
            if good and not is_good and _text_column(path) != _text_column(path, data):
                continue  # these lines alone look as if they had other columns than those that the whole file shows
            if good != is_good:
                return f"{cause}; but the first {count} lines are {'good' if good else said}"
        return ""

    def _reread(self, rows: Rows) -> str:
        self.reread += 1
        path = self.folder / "again.jsonl"
        path.write_bytes(_lines([dict(quote) for quote in rows.quotes]))
        return "" if read_rows(path).digest == rows.digest else "the accepted rows, written anew, have another digest"


def other_row(cause: str, named: int, said: str, data: bytes, skip: bool = False) -> str:
    """The row of an array that is named must not stand behind the first that the parser cannot read, unless bad rows are
    passed over; a row that is called no JSON must be that one. Rows of an array stand where commas part them, so its lines say nothing."""
    text = data.decode("utf-8", "replace").lstrip("\ufeff \t\r\n").removeprefix("[")
    bad = first_bad_element(text)
    is_that_one = said.startswith(("invalid JSON", "truncated JSON", "the file ends at byte", "nothing between"))
    is_right = named == bad if is_that_one else skip or named <= bad
    return "" if is_right else f"{cause}; but row {bad} is the first that is not JSON"


def first_bad_element(text: str) -> int:
    """The number, from 1, of the first element that is not JSON with a comma or the closing bracket behind it."""
    number = at = 0
    while True:
        number += 1
        try:
            _, at = _PLAIN.raw_decode(text, at + len(text[at:]) - len(text[at:].lstrip(" \t\r\n")))
        except (ValueError, RecursionError):
            return number
        rest = text[at:].lstrip(" \t\r\n")
        if not rest.startswith(","):
            return number + rest.startswith("]")
        at = len(text) - len(rest) + 1


def misplaced(name: str, cause: str, fix: str, data: bytes) -> str:
    """What is wrong with a refusal: no file, no place, a line that the file has not, no advice; or an empty string."""
    if name not in cause or not fix:
        return f"no file or no advice: {cause}"
    place = cause[cause.rindex(name) :].removeprefix(name) if "none of its" in cause else cause.removeprefix(name)
    if not PLACE.match(place) and not WHOLE.match(place.removeprefix(": ")):
        return f"no place: {cause}"
    line = LINE.match(place)
    return f"no such line: {cause}" if line and not 1 <= int(line[1]) <= _line_ends(data) + 1 else ""


def _text_column(path: Path, data: bytes | None = None) -> str:
    """What is taken for the text, in a file or in `data` written there."""
    if data is not None:
        path.write_bytes(data)
    try:
        rows = read_rows(path, skip_bad_rows=True)
        return rows.notes[0].partition(",")[0] + repr(sorted(name for name in rows.columns if not name.isprintable()))
    except DataError:
        return ""


def _line_ends(data: bytes) -> int:
    return data.count(b"\n") or data.count(b"\r")


def unsound(name: str, rows: Rows, data: bytes) -> str:
    """What is wrong with rows that were accepted: a quote that its text does not give back, a row that nobody accounts
    for."""
    template = rows.template
    for quote in rows.quotes:
        if template.parse(template.render(quote)) != quote:
            return f"does not round-trip: {quote}"
    if rows.num_read != len(rows.quotes) + rows.duplicates + len(rows.skipped):
        return f"{rows.num_read} rows read, not all accounted for"
    return next(filter(None, (_misplaced_row(name, problem, data) for problem in rows.skipped)), "")


def _misplaced_row(name: str, problem: Problem, data: bytes) -> str:
    return misplaced(name, f"{problem.place}: {problem.cause}", problem.fix, data)
