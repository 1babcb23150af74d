"""Parquet and Arrow files: tables with a schema, a few hundred rows at a time.

Of a Parquet or Arrow file only the columns that are trained are read. A string column may hold bytes that are not UTF-8
(nothing checks that when it is written), so values are taken one by one. A `ClassLabel` of the library `datasets` is a
number in the file and a name in the schema: it is read by its name."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from florilegium.data.arrow_messages import refuse_arrow_bombs
from florilegium.data.cell_size import is_over_limit, refuse_bombs, refuse_empty_rows
from florilegium.data.lines import OVER_LIMIT
from florilegium.data.parquet_footer import read_parts
from florilegium.data.quote import SKIP
from florilegium.data.raw_rows import Problem, Raw, Stream, check_names, name_of
from florilegium.data.unpack import in_memory, open_unpacked
from florilegium.errors import DataError, reason_of
from florilegium.storage.library_errors import ran_out_of_memory

if TYPE_CHECKING:
    import pyarrow

_BATCH_ROWS = 256
Columns = Sequence[str] | None  # those that are wanted; None: all
Names = Mapping[str, Sequence[str]]  # the names of a ClassLabel's numbers


def read_parquet(path: Path, columns: Columns = None) -> Stream:
    """The rows of a Parquet file; columns that are not wanted are None. Raises: DataError for a damaged one."""
    import pyarrow
    import pyarrow.parquet

    with open_unpacked(path) as (file, _):
        try:
            source = in_memory(file, path.name)
            parts = read_parts(source)
            with pyarrow.parquet.ParquetFile(source) as table:
                check_names(name_of(path), list(table.schema_arrow.names))
                wanted = _wanted(table.schema_arrow.names, columns)
                refuse_bombs(parts, wanted, name_of(path))
                refuse_empty_rows(table.metadata.num_rows, source.seek(0, os.SEEK_END), name_of(path))
                batches = table.iter_batches(batch_size=_BATCH_ROWS, columns=wanted, use_threads=False)
                yield from _rows(name_of(path), table.schema_arrow, batches)
        except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
            raise damaged(path, "a Parquet file", error) from None


def read_arrow(path: Path, columns: Columns = None) -> Stream:
    """The rows of an Arrow file or stream, as `save_to_disk` writes it. Raises: DataError for a damaged one."""
    import pyarrow
    import pyarrow.ipc

    with open_unpacked(path) as (file, _):
        try:
            source = in_memory(file, path.name)
            is_file = source.read(6) == b"ARROW1"
            refuse_arrow_bombs(source, is_file, name_of(path))
            table = pyarrow.ipc.open_file(source) if is_file else pyarrow.ipc.open_stream(source)
            check_names(name_of(path), list(table.schema.names))
            read = (table.get_batch(i) for i in range(table.num_record_batches)) if is_file else table
            wanted = _wanted(table.schema.names, columns)
            yield from _rows(name_of(path), table.schema, (_sound(batch.select(wanted)) for batch in read))
        except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
            raise damaged(path, "an Arrow file", error) from None


def _sound(batch: pyarrow.RecordBatch) -> pyarrow.RecordBatch:
    """The batch, whose offsets and indices lie within its buffers: pyarrow takes them as the file has them, and a wrong one
    ends the process. Texts that are not UTF-8 are told row by row later. Raises: ArrowInvalid for a damaged one."""
    import pyarrow

    batch.validate()
    for column in batch.columns:
        try:
            column.validate(full=True)
        except pyarrow.ArrowInvalid as error:
            if "UTF8" not in str(error):
                raise
            column.view(_as_bytes(column.type)).validate(full=True)
    return batch


def _as_bytes(kind: pyarrow.DataType) -> pyarrow.DataType:
    """A type with bytes where `kind` has text."""
    import pyarrow

    if pyarrow.types.is_string(kind):
        return pyarrow.binary()
    if pyarrow.types.is_large_string(kind):
        return pyarrow.large_binary()
    if pyarrow.types.is_list(kind):
        return pyarrow.list_(_as_bytes(kind.value_type))
    if pyarrow.types.is_large_list(kind):
        return pyarrow.large_list(_as_bytes(kind.value_type))
    if pyarrow.types.is_struct(kind):
        return pyarrow.struct([(field.name, _as_bytes(field.type)) for field in kind])
    return kind


def _wanted(names: Iterable[str], columns: Columns) -> list[str]:
    return [name for name in names if columns is None or name in columns]


def damaged(path: Path, kind: str, error: Exception) -> DataError:
    """What is told of a file that a library cannot read; raises `error` itself where memory ran out."""
    if ran_out_of_memory(error):
        raise error
    if isinstance(error, NotImplementedError):  # pyarrow's class is one: a codec, an encryption, a type
        cause = f"{path.name}: {kind} of a form that is not read here ({reason_of(error, 300)})"
        return DataError(cause, "Write it again without compression or encryption, or as .jsonl")
    return DataError(
        f"{path.name}: not {kind}, or a damaged one ({reason_of(error, 300)})", "Write or download it again"
    )


def _rows(name: str, schema: pyarrow.Schema, batches: Iterable[pyarrow.RecordBatch]) -> Stream:
    names, labels, number = list(schema.names), label_names(schema.metadata), 0
    for batch in batches:
        cells = {column: batch.column(column) for column in batch.schema.names}
        for index in range(batch.num_rows):
            number += 1
            row = {column: values[index] for column, values in cells.items()}
            yield take_row(f"{name}: row {number}", names, row, labels)


def label_names(metadata: Mapping[bytes, bytes] | None) -> Names:
    """The ClassLabels that `datasets` notes in a schema."""
    try:
        features = json.loads((metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return {
            name: f["names"] for name, f in features.items() if isinstance(f, dict) and f.get("_type") == "ClassLabel"
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def take_row(place: str, names: Iterable[str], cells: Mapping[str, Any], labels: Names) -> Raw | Problem:
    """A row from pyarrow scalars; the columns that were not read are None."""
    row: dict[str, object] = dict.fromkeys(names)
    for name, cell in cells.items():
        if is_over_limit(cell):
            return Problem(place, OVER_LIMIT, f"Shorten it, {SKIP}")
        try:
            row[name] = _by_name(cell.as_py(), labels[name]) if name in labels else cell.as_py()
        except UnicodeDecodeError as error:
            cause = f"column {name!r} is not UTF-8 (byte {error.start} of the value)"
            return Problem(place, cause, f"Write the file again from UTF-8 text, {SKIP}", kind="not UTF-8")
        except (ValueError, OverflowError) as error:
            return Problem(place, f"column {name!r} cannot be read ({error})", f"Write text there, {SKIP}")
    return Raw(place, row)


def _by_name(value: object, names: Sequence[str]) -> object:
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else value
