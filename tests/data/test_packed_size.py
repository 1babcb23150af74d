"""A packed file of some hundreds of kilobytes that would be gigabytes in memory is refused, and what memory that takes is
measured in a process of its own."""

from __future__ import annotations

import gzip
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest

READ = """
import resource, sys
from florilegium.data import read_rows
from florilegium.errors import DataError
import florilegium.data.arrow_rows, pyarrow.parquet, pyarrow.ipc
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    print("read", len(read_rows(sys.argv[1], skip_bad_rows=len(sys.argv) > 2).quotes))
except DataError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
PIECE = 1 << 20


def gzipped(path: Path, head: bytes, piece: bytes, count: int = 300) -> None:
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(head)
        for _ in range(count):
            file.write(piece)


def wide(path: Path) -> None:
    gzipped(path, b"\xff\xfe", "x".encode("utf-16-le") * (PIECE // 2))


def old_mac(path: Path) -> None:
    gzipped(path, b"Be kind.\r", b"Be kind to all of the.\r" * (PIECE // 23))


def packed_parquet(path: Path) -> None:
    gzipped(path, b"PAR1", bytes(PIECE))


def one_line(path: Path) -> None:
    gzipped(path, b"", b"x" * PIECE)


def zipped(path: Path) -> None:
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("rows.parquet", "w", force_zip64=True) as file,
    ):
        file.write(b"PAR1")
        for _ in range(300):
            file.write(bytes(PIECE))


def dictionary(letters: int, rows: int) -> pyarrow.Table:
    """`rows` times one text, which the file holds once."""
    quotes = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * rows, pyarrow.int32()), ["x" * letters])
    return pyarrow.table({"quote": quotes, "tags": ["a"] * rows})


def large_dictionary(path: Path) -> None:
    pyarrow.parquet.write_table(dictionary(100 * PIECE, 4), path, compression="zstd")


def repeated_beyond_a_row(path: Path) -> None:
    pyarrow.parquet.write_table(dictionary(3 * PIECE, 3000), path, compression="zstd")


def packed_arrow(path: Path, table: pyarrow.Table, codec: str = "zstd", *, stream: bool = False) -> None:
    writer = pyarrow.ipc.new_stream if stream else pyarrow.ipc.new_file
    with writer(path, table.schema, options=pyarrow.ipc.IpcWriteOptions(compression=codec)) as file:
        file.write_table(table)


def large_cell(path: Path, *, stream: bool = False) -> None:
    packed_arrow(path, pyarrow.table({"quote": ["x" * (300 * PIECE)], "tags": ["a"]}), stream=stream)


def large_cell_stream(path: Path) -> None:
    large_cell(path, stream=True)


def large_arrow_dictionary(path: Path) -> None:
    packed_arrow(path, dictionary(300 * PIECE, 4))


def announced(path: Path) -> None:
    """Eight bytes of a small file are changed: a buffer of 1 GiB and a bit."""
    packed_arrow(path, pyarrow.table({"quote": ["Be kind to all of them. " * 40], "tags": ["a"]}), "lz4", stream=True)
    head, length, tail = path.read_bytes().rpartition((960).to_bytes(8, "little"))
    path.write_bytes(head + (PIECE * 1025).to_bytes(len(length), "little") + tail)


def nulls(count: int = 3 * PIECE) -> pyarrow.Table:
    return pyarrow.table({name: pyarrow.nulls(count, pyarrow.string()) for name in ("quote", "tags")})


def null_rows(path: Path) -> None:
    pyarrow.parquet.write_table(nulls(), path)


def null_arrow_rows(path: Path) -> None:
    packed_arrow(path, nulls())


def null_batches(path: Path) -> None:
    """Each of them alone is small enough."""
    with pyarrow.ipc.new_stream(path, nulls(0).schema, options=pyarrow.ipc.IpcWriteOptions(compression="zstd")) as file:
        for _ in range(6):
            file.write_table(nulls(PIECE // 2))


@pytest.mark.parametrize(
    ("name", "make", "said", "most"),
    [
        ("a.jsonl.gz", wide, "must be read at once", 700),
        ("a.txt.gz", old_mac, "must be read at once", 700),
        ("a.parquet.gz", packed_parquet, "must be read at once", 700),
        ("a.parquet.zip", zipped, "must be read at once", 700),
        ("a.jsonl.gz", one_line, "over 1,048,576 bytes", 60),
        ("a.parquet", large_dictionary, "in memory", 60),
        ("a.parquet", repeated_beyond_a_row, "over 1,048,576 bytes", 150),
        ("a.arrow", large_cell, "in memory", 60),
        pytest.param("a.arrow", large_cell_stream, "in memory", 60, marks=pytest.mark.slow),
        pytest.param("a.arrow", large_arrow_dictionary, "in memory", 60, marks=pytest.mark.slow),
        ("a.arrow", announced, "in memory", 60),
        ("a.parquet", null_rows, "rows in", 60),
        pytest.param("a.arrow", null_arrow_rows, "rows in", 60, marks=pytest.mark.slow),
        ("a.arrow", null_batches, "rows in", 60),
    ],
)
def test_memory_is_bounded(tmp_path: Path, name: str, make: Callable[[Path], None], said: str, most: int) -> None:
    make(tmp_path / name)
    assert (tmp_path / name).stat().st_size < 20_000_000
    done = subprocess.run([sys.executable, "-c", READ, tmp_path / name], capture_output=True, text=True, check=True)
    *lines, mebibytes = done.stdout.splitlines()
    assert said in lines[0] and int(mebibytes) < most, done.stdout
