"""Arrow files and streams: every form of them reads as the rows that it holds, and a damaged one is an error with one line.
pyarrow takes offsets as a file has them, and a wrong one ends the process: mutants are read in a process of their own."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow
import pyarrow.ipc
import pytest

from florilegium.data import read_rows
from florilegium.errors import DataError

ROWS = [
    {"quote": f"Be kind to river {number}.", "tags": ["life", "sea"][: number % 3], "who": "abc"[number % 3]}
    for number in range(40)
]
FORMS = [(kind, codec) for kind in ("file", "stream") for codec in (None, "zstd", "lz4")]

# Reads each file named and prints what came of it, so that the last line names the one that a process died of.
READ = """
import sys
from florilegium.data import read_rows
from florilegium.errors import DataError
for number, name in enumerate(sys.argv[1:]):
    print(name, flush=True)
    try:
        read_rows(name, text_column="quote", tags_column="tags", skip_bad_rows=number % 2 == 0)
    except DataError as error:
        assert error.fix and str(error).isprintable(), error
print("all")
"""


def table(rows: Sequence[dict[str, object]] = ROWS) -> pyarrow.Table:
    plain = pyarrow.Table.from_pylist(list(rows))
    return plain.set_column(2, "who", plain["who"].dictionary_encode())


def written(kind: str, rows: pyarrow.Table, **options: object) -> bytes:
    file = io.BytesIO()
    writer = pyarrow.ipc.new_file if kind == "file" else pyarrow.ipc.new_stream
    with writer(file, rows.schema, options=pyarrow.ipc.IpcWriteOptions(**options)) as to:
        to.write_table(rows, max_chunksize=16)
    return file.getvalue()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(("kind", "codec"), FORMS)
def test_every_form_reads_as_its_rows(tmp_path: Path, kind: str, codec: str | None, legacy: bool) -> None:
    (tmp_path / "a.feather").write_bytes(written(kind, table(), compression=codec, use_legacy_format=legacy))
    quotes = read_rows(tmp_path / "a.feather", text_column="quote", tags_column="tags").quotes
    assert [(quote["quote"], list(quote["tags"])) for quote in quotes] == [(row["quote"], row["tags"]) for row in ROWS]


def test_texts_that_are_not_utf8_are_told_by_row(tmp_path: Path) -> None:
    bad = pyarrow.array([b"Be kind.", b"caf\xff"]).view(pyarrow.string())
    tags = pyarrow.ListArray.from_arrays([0, 1, 2], pyarrow.array([b"a", b"b\xff"]).view(pyarrow.string()))
    for name, columns in (("quote", (bad, [["a"], ["b"]])), ("tags", (["x y", "z w"], tags))):
        (tmp_path / "a.arrow").write_bytes(written("file", pyarrow.table(list(columns), ["quote", "tags"])))
        with pytest.raises(DataError, match=f"a.arrow: row 2: column '{name}' is not UTF-8"):
            read_rows(tmp_path / "a.arrow")


@pytest.mark.parametrize("kind", ["file", "stream"])
def test_a_body_of_a_terabyte_is_not_asked_for(tmp_path: Path, kind: str) -> None:
    rows = pyarrow.Table.from_pylist([{"quote": f"Be kind to {i}.", "tags": ["a"]} for i in range(16)])
    body = pyarrow.ipc.read_message(
        pyarrow.py_buffer(written("stream", rows)[8 + len(rows.schema.serialize()) - 8 :])
    ).body
    length, data = body.size.to_bytes(8, "little"), written(kind, rows)
    assert length in data
    (tmp_path / "a.arrow").write_bytes(data.replace(length, (1 << 40).to_bytes(8, "little"), 1))
    with pytest.raises(DataError, match="it is cut off"):
        read_rows(tmp_path / "a.arrow")


def mutants(folder: Path, count: int) -> list[Path]:
    import random

    draw, made = random.Random(0), []
    for number in range(count):
        kind, codec = FORMS[number % len(FORMS)]
        data = bytearray(written(kind, table(), compression=codec))
        for _ in range(draw.randint(1, 4)):
            data[draw.randrange(8, len(data))] = draw.randrange(256)
        made.append(folder / f"{number}-{kind}-{codec}.arrow")
        made[-1].write_bytes(data)
    return made


def test_no_damage_ends_the_process(tmp_path: Path) -> None:
    names = [str(path) for path in mutants(tmp_path, 600)]
    done = subprocess.run([sys.executable, "-c", READ, *names], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.endswith("all\n"), (done.stdout[-200:], done.stderr[-500:])
