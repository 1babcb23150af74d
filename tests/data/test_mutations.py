"""Good files with a few bytes spoilt: read, or refused by nothing but our own errors. `tests/torture/mutations.py` spoils
them a million times."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from florilegium.data import read_rows
from florilegium.data.json_array import ArrayCutter
from florilegium.data.lines import Piece
from florilegium.errors import DataError


@pytest.mark.parametrize(("suffix", "count"), [(".jsonl", 3_000), (".json", 1_000), (".csv", 1_000), (".parquet", 300)])
def test_mutations_raise_nothing_but_our_errors(tmp_path: Path, suffix: str, count: int) -> None:
    good, path, draw = good_file(tmp_path, suffix), tmp_path / f"mutant{suffix}", random.Random(suffix)
    refused = 0
    for _ in range(count):
        path.write_bytes(mutate(good, draw))
        try:
            rows = read_rows(path, skip_bad_rows=draw.random() < 0.5)
            assert all(rows.template.parse(rows.template.render(quote)) == quote for quote in rows.quotes)
        except DataError as error:
            refused += 1
            assert path.name in error.cause and error.fix
    assert refused > count // 10


def good_file(folder: Path, suffix: str) -> bytes:
    rows = [{"quote": f"Quote {i} is “kind”, {i}.", "tags": ["life", f"n{i}"]} for i in range(8)]
    if suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "good.parquet")
        return (folder / "good.parquet").read_bytes()
    if suffix == ".csv":
        return ("quote,tags\n" + "".join(f'"{row["quote"]}","{", ".join(row["tags"])}"\n' for row in rows)).encode()
    if suffix == ".json":
        return json.dumps(rows, indent=1, ensure_ascii=False).encode()
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


SPLINTERS = [*(bytes([b]) for b in b'"\\{}[],:\n\r\x00\xff'), b"null", b"\\ud800", b"->:", b"9" * 5000, b"[" * 5000]


def mutate(good: bytes, draw: random.Random) -> bytes:
    data = bytearray(good)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(data) + 1)
        kind = draw.randrange(6)
        if kind == 0:
            data[at : at + 1] = bytes([draw.randrange(256)])
        elif kind == 1:
            data[at:at] = draw.choice(SPLINTERS)
        elif kind == 2:
            del data[at : at + draw.randint(1, 20)]
        elif kind == 3:
            data[at:at] = data[draw.randrange(len(data) + 1) :][: draw.randint(1, 60)]
        elif kind == 4 and draw.random() < 0.2:
            del data[at:]
        else:
            data[at : at + 1] = data[at : at + 1].swapcase()
    return bytes(data)


def test_an_array_is_cut_the_same_whatever_the_blocks() -> None:
    """Byte by byte nothing can be passed over: that is the plain walk, and the fast one must cut and count as it
    does."""
    draw = random.Random(3)
    good = json.dumps(
        [{"quote": "a “b” \\ c", "tags": ["d", "e"], "x": [[{}, "]"]]}] * 3, indent=1, ensure_ascii=False
    ).encode()

    def cut(data: bytes, size: int) -> tuple[list[Piece], Piece | None, int, bool]:
        cutter = ArrayCutter(0)
        pieces = [piece for start in range(0, len(data), size) for piece in cutter.feed(data[start : start + size])]
        return (
            pieces,
            cutter.trailing and Piece(b"", cutter.trailing.line, cutter.trailing.offset),
            cutter.line,
            cutter.closed,
        )

    for _ in range(2_000):
        data = mutate(good, draw)
        if data.lstrip().startswith(b"["):
            assert cut(data, 1) == cut(data, draw.randint(2, 40)) == cut(data, 1 << 16)
