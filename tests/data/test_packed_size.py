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
    ],
)
def test_memory_is_bounded(tmp_path: Path, name: str, make: Callable[[Path], None], said: str, most: int) -> None:
    make(tmp_path / name)
    assert (tmp_path / name).stat().st_size < 20_000_000
    done = subprocess.run([sys.executable, "-c", READ, tmp_path / name], capture_output=True, text=True, check=True)
    *lines, mebibytes = done.stdout.splitlines()
    assert said in lines[0] and int(mebibytes) < most, done.stdout
