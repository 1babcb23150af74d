"""Excel's workbooks to rows: which sheet, where its names stand, and each row below them.

A workbook may begin with a sheet about the others, a sheet with a title, and a sheet may have no names at all: the same
rules as for CSV (`csv_dialect.py`) tell them. Sheets that are not read are named."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from florilegium.data.arrow_rows import Columns, damaged
from florilegium.data.csv_dialect import count_titles, is_header, names_something, passed_over, without_header
from florilegium.data.raw_rows import Note, Raw, Stream, check_names, name_of
from florilegium.data.split_files import TRAIN, split_of
from florilegium.data.unpack import in_memory, open_unpacked
from florilegium.errors import DataError, reason_of

_HEAD_ROWS, _MOST_TITLES = 200, 12


def read_workbook(path: Path, columns: Columns = None) -> Stream:
    """The rows of the sheet that is for training, else of the first that names its columns, else of the first that has
    any. Raises: DataError where the workbook is damaged, or openpyxl is missing."""
    try:
        import openpyxl
    except ImportError as error:
        is_missing = isinstance(error, ModuleNotFoundError) and error.name == "openpyxl"
        why = "is missing" if is_missing else f"cannot be imported ({reason_of(error)})"
        raise DataError(
            f"{path.name}: Excel workbooks are read by the package openpyxl, which {why}",
            "Type: pip install -U openpyxl, or save it as CSV UTF-8 in Excel",
        ) from None
    with open_unpacked(path) as (file, _):
        # Whatever a damaged zip or its XML brings up: openpyxl lets through errors of three libraries.
        try:
            book = openpyxl.load_workbook(in_memory(file, path.name), read_only=True, data_only=True)
            heads = {sheet: list(islice(_filled(sheet), _HEAD_ROWS)) for sheet in book.worksheets}
        except Exception as error:
            raise damaged(path, "an Excel workbook", error) from None
        filled = {sheet: rows for sheet, rows in heads.items() if rows}
        if filled:
            sheet = _chosen(filled)
            left = ", ".join(f"'{other.title}'" for other in filled if other is not sheet)
            if left:
                yield Note(f"{name_of(path)}: sheet '{sheet.title}' is read; not used: {left}")
            yield from _rows(name_of(path), _filled(sheet), filled[sheet])


Row = tuple[int, Sequence[Any]]  # its number in the sheet, from 1, and its cells as openpyxl gives them


def _filled(sheet: Any) -> Iterator[Row]:
    """The rows that have anything in them. Programs that append rows leave the sheet's stated size as it was, and openpyxl
    would read no further."""
    sheet.reset_dimensions()
    for number, row in enumerate(sheet.iter_rows(values_only=True), 1):
        if any(cell is not None for cell in row):
            yield number, row


def _chosen(heads: dict[Any, list[Row]]) -> Any:
    training = (sheet for sheet in heads if split_of(sheet.title) == TRAIN)
    named = (
        sheet for sheet, rows in heads.items() if any(names_something(_texts(row)) for _, row in rows[:_MOST_TITLES])
    )
    untested = (sheet for sheet in heads if split_of(sheet.title) is None)
    return next(training, None) or next(named, None) or next(untested, None) or next(iter(heads))


def _texts(row: Sequence[Any]) -> list[str]:
    return ["" if cell is None else str(cell).strip() for cell in row]


def _rows(name: str, rows: Iterator[Row], head: list[Row]) -> Stream:
    cells = [_texts(row) for _, row in head]
    titles = count_titles(cells[:_MOST_TITLES])
    if titles:
        yield passed_over(name, titles)
    names = cells[titles]
    if is_header(names, cells[titles + 1 :]):
        rows = islice(rows, titles + 1, None)
        columns = {i: cell for i, cell in enumerate(names) if cell}
    else:
        yield without_header(name, len(names))
        columns = {i: f"column {i + 1}" for i in range(len(names))}
    check_names(name, list(columns.values()))
    for number, row in rows:
        yield Raw(f"{name}: row {number}", {called: row[i] if i < len(row) else None for i, called in columns.items()})
