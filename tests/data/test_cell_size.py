"""A Parquet file of some kilobytes is refused for what it would be in memory, or its row is; ordinary ones are read."""

from __future__ import annotations

import contextlib
import os
import random
import resource
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from florilegium.data import read_rows
from florilegium.data.cell_size import is_over_limit
from florilegium.data.parquet_footer import ColumnPart, read_parts
from florilegium.errors import DataError
from tests.torture.mutations import mutants


def written(path: Path, quotes: list[str], tags: list[list[str]]) -> Path:
    pyarrow.parquet.write_table(pyarrow.table({"quote": quotes, "tags": tags}), path, compression="zstd")
    return path


@pytest.mark.parametrize(
    ("quotes", "tags", "cause"),
    [
        (["x" * (100 << 20), "Be kind."], [["a"], ["b"]], "in memory"),
        (["x" * (3 << 20), "Be kind."], [["a"], ["b"]], "over 1,048,576 bytes"),
        (["Be kind.", "Be good."], [["a"] * 3_000_000, ["b"]], "items in memory"),
        (["Be kind.", "Be good."], [["a"] * 1_049_500, ["b"]], "over 1,048,576 bytes"),
    ],
)
def test_what_is_small_on_disk_and_large_in_memory(
    tmp_path: Path, quotes: list[str], tags: list[list[str]], cause: str
) -> None:
    path = written(tmp_path / "rows.parquet", quotes, tags)
    assert path.stat().st_size < 100_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=cause):
        read_rows(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KiB
    if "over" in cause:
        assert len(read_rows(path, skip_bad_rows=True).quotes) == 1


def test_ordinary_tables_are_read(tmp_path: Path) -> None:
    count = 3000
    path = written(tmp_path / "rows.parquet", [f"Be kind {i}." for i in range(count)], [["hope", "sea"]] * count)
    assert len(read_rows(path).quotes) == count
    assert not is_over_limit(pyarrow.scalar(["a", "b"])) and not is_over_limit(pyarrow.scalar(None))
    assert not is_over_limit(pyarrow.scalar({"a": "b"})) and is_over_limit(pyarrow.scalar({"a": "b" * (2 << 20)}))
    assert is_over_limit(pyarrow.scalar("x" * (2 << 20)).cast(pyarrow.large_string()))


def test_the_footer_says_what_pyarrow_says(tmp_path: Path) -> None:
    columns = {
        "quote": ["Be kind."] * 50,
        "tags": [["a", "b"]] * 50,
        "deep": [{"x": {"y": 1.5}}] * 50,
        "yes": [True] * 50,
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "q.parquet", row_group_size=20)
    metadata = pyarrow.parquet.read_metadata(tmp_path / "q.parquet")
    theirs = [
        ColumnPart(c.path_in_schema.split(".")[0], g.num_rows, c.num_values, c.total_compressed_size, c.total_uncompressed_size)
        for g in (metadata.row_group(i) for i in range(metadata.num_row_groups))
        for c in (g.column(i) for i in range(g.num_columns))
    ]  # fmt: skip
    with (tmp_path / "q.parquet").open("rb") as file:
        assert read_parts(file) == theirs and file.tell() == 0
    assert len(theirs) == 3 * 4


def test_a_damaged_file_does_not_end_the_process(tmp_path: Path) -> None:
    """pyarrow ends the process where a column's statistics do not fit its kind: one in some hundred damaged files."""
    path = tmp_path / "q.parquet"
    spoiled = list(mutants(".parquet", 300, random.Random(7)))
    child = os.fork()
    if child == 0:
        for data in spoiled:
            path.write_bytes(data)
            with contextlib.suppress(DataError):
                read_rows(path)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
