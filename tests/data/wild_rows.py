"""Twelve rows, and how people's programs write them down: JSON Lines, tables, Parquet, Arrow, archives, sheets, databases."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
import zipfile
from collections.abc import Callable
from typing import Any

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest

from florilegium.data import Rows

NOUNS = [
    "lamp",
    "river",
    "bread",
    "stone",
    "window",
    "garden",
    "letter",
    "bridge",
    "winter",
    "needle",
    "harbor",
    "candle",
]
TAGS = [["home"], ["time", "sea"], ["work", "rest"], ["hope", "work"], [], ["rest", "time"]]
QUOTES = [
    f"A {a} waits for the {b} and keeps a {c}."
    for a, b, c in zip(NOUNS, NOUNS[5:] + NOUNS[:5], NOUNS[3:] + NOUNS[:3], strict=True)
]
ROWS: list[dict[str, Any]] = [
    {"quote": quote, "author": f"Ada Example {'ABC'[n % 3]}", "tags": TAGS[n % 6]} for n, quote in enumerate(QUOTES)
]
WITH_TAGS = [f"{row['quote']} ->: {', '.join(row['tags'])}".rstrip() for row in ROWS]
ALONE = QUOTES
Table = list[dict[str, Any]]


def jsonl(rows: list[Any], end: str = "\n") -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + end for row in rows).encode()


def table(rows: Table, sign: str = ",", end: str = "\n", header: bool = True, **how: Any) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=sign, lineterminator=end, **how)
    if header:
        writer.writerow(rows[0])
    for row in rows:
        writer.writerow([", ".join(value) if isinstance(value, list) else value for value in row.values()])
    return text.getvalue().encode()


def renamed(**names: str) -> Table:
    """The rows with other names for their columns."""
    return [{names[name]: value for name, value in row.items() if name in names} for row in ROWS]


def tagged(write: Callable[[list[str]], Any], name: str = "tags") -> Table:
    return [{"quote": row["quote"], name: write(row["tags"])} for row in ROWS]


def parquet(rows: Table, **more: Any) -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, **more), file)
    return file.getvalue()


def arrow(rows: Table, stream: bool = False) -> bytes:
    file, data = io.BytesIO(), pyarrow.Table.from_pylist(rows)
    with (pyarrow.ipc.new_stream if stream else pyarrow.ipc.new_file)(file, data.schema) as writer:
        writer.write_table(data)
    return file.getvalue()


def zipped(**files: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in files.items():
            archive.writestr(name.replace("__", "."), data)
    return file.getvalue()


def workbook(rows: Table) -> bytes:
    openpyxl = pytest.importorskip("openpyxl")
    book, file = openpyxl.Workbook(), io.BytesIO()
    book.active.append(list(rows[0]))
    for row in rows:
        book.active.append([", ".join(value) if isinstance(value, list) else value for value in row.values()])
    book.save(file)
    return file.getvalue()


def database() -> bytes:
    base = sqlite3.connect(":memory:")
    base.execute("create table quotes (quote text)")
    return base.serialize()


def trained(rows: Rows) -> list[str]:
    return [rows.template.render(quote) for quote in rows.quotes]
