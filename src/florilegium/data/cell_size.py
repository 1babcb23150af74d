"""How large a cell of a Parquet or Arrow table is, before it becomes a text: a file of some kilobytes may hold one of
hundreds of megabytes, since equal bytes and equal items compress to nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from florilegium.data.lines import MAX_ROW_BYTES
from florilegium.data.parquet_footer import ColumnPart
from florilegium.errors import DataError

# Text compresses some ten times, and the columns of a table to a hundredth where most cells are equal.
MAX_COMPRESSION, FREE_BYTES = 200, 64 << 20
MAX_ITEMS_A_ROW, FREE_ITEMS = 1000, 1 << 20


def is_over_limit(cell: Any) -> bool:  # Any: one of pyarrow's scalars, which have no types
    """Whether a scalar takes more than a row may, by its buffers alone."""
    import pyarrow

    if isinstance(cell, pyarrow.DictionaryScalar):
        return is_over_limit(cell.value)
    if isinstance(
        cell, (pyarrow.StringScalar, pyarrow.BinaryScalar, pyarrow.LargeStringScalar, pyarrow.LargeBinaryScalar)
    ):
        buffer = cell.as_buffer()
        return buffer is not None and buffer.size > MAX_ROW_BYTES
    if isinstance(cell, (pyarrow.ListScalar, pyarrow.LargeListScalar, pyarrow.FixedSizeListScalar)):
        items = cell.values
        if items is None:
            return False
        held = items.indices if isinstance(items, pyarrow.DictionaryArray) else items
        return int(held.nbytes) > 4 * MAX_ROW_BYTES or len(items) > MAX_ROW_BYTES
    if isinstance(cell, pyarrow.StructScalar):
        return any(is_over_limit(part) for part in cell.values())
    return False


def refuse_bombs(parts: Iterable[ColumnPart], columns: Collection[str], name: str) -> None:
    """Raises DataError for a column whose data is far larger than its part of the file, or that has far more items than
    rows: it would be taken apart in memory before the first row is seen. ValueError for counts that no table has."""
    for part in parts:
        if part.name not in columns:
            continue
        large = part.bytes_unpacked > FREE_BYTES + MAX_COMPRESSION * max(0, part.bytes_packed)
        if min(part.num_rows, part.num_values, part.bytes_unpacked) < 0:
            raise ValueError(f"its footer counts {part.num_values:,} values in {part.num_rows:,} rows")
        many = part.num_values > FREE_ITEMS + MAX_ITEMS_A_ROW * part.num_rows
        if large or many:
            size = f"{part.bytes_unpacked:,} bytes" if large else f"{part.num_values:,} items"
            raise DataError(
                f"{name}: column {part.name!r} would be {size} in memory",
                "Write the file again with rows of at most a mebibyte",
            )


def refuse_empty_rows(num_rows: int, file_bytes: int, name: str) -> None:
    """Raises DataError for far more rows than bytes: nulls take no room in a file, and each is told of one by one."""
    if num_rows > FREE_ITEMS + file_bytes:
        raise DataError(f"{name}: {num_rows:,} rows in {file_bytes:,} bytes", "Write the file again without empty rows")
