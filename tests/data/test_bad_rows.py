"""A few bad rows do not stop a newcomer, and nobody is told nothing of them; many are a file that was not meant."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from florilegium.config import make_config
from florilegium.data import read_rows, read_rows_of, reading_sentences
from florilegium.errors import DataError
from florilegium.seedling import SAYINGS


def write_csv(path: Path, rows: int = 300, empty: int = 1) -> Path:
    """Somebody's own file: Quote, Author, Category, of sayings that are no variations of one another."""
    sayings = [json.loads(line) for line in SAYINGS.read_text(encoding="utf-8").splitlines()]
    chosen = sayings[:: len(sayings) // rows][:rows]
    authors = ["A. Marsh", "the baker", "unknown", "my grandmother", "T. Lowe"]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["Quote", "Author", "Category"])
        for i, row in enumerate(chosen):
            quote = "" if i in range(20, 20 + empty) else row["quote"]
            writer.writerow([quote, authors[i % 5], "" if i in (5, 12) else ", ".join(row["tags"])])
    return path


def test_an_empty_quote_is_skipped_and_named(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "my_quotes.csv")
    rows = read_rows_of(make_config({"data": str(path)}))
    assert (len(rows.quotes), len(rows.skipped), rows.template.list_columns) == (
        299,
        1,
        ("tags",),
    )
    told = "\n".join(reading_sentences(rows))
    assert "skipped  my_quotes.csv:22: column 'Quote' is empty" in told and "2 of 299 rows have no tags" in told


def test_as_many_as_one_in_twenty_and_no_more(tmp_path: Path) -> None:
    few = write_csv(tmp_path / "few.csv", 100, empty=5)
    assert len(read_rows_of(make_config({"data": str(few)})).skipped) == 5
    many = write_csv(tmp_path / "many.csv", 100, empty=6)
    with pytest.raises(
        DataError, match=r"many.csv:22: column 'Quote' is empty \(6 bad rows of 100 read\).*--skip-bad-rows"
    ):
        read_rows_of(make_config({"data": str(many)}))
    assert len(read_rows_of(make_config({"data": str(many), "skip_bad_rows": True})).skipped) == 6


def test_skip_bad_rows_off_refuses_the_first(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "my_quotes.csv")
    for read in (
        lambda: read_rows_of(make_config({"data": str(path), "skip_bad_rows": False})),
        lambda: read_rows(path),
    ):
        with pytest.raises(DataError, match="my_quotes.csv:22: column 'Quote' is empty"):
            read()


def test_a_long_file_of_other_rows_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "other.jsonl"
    path.write_text('{"quote": "a", "tags": []}\n' + '{"quote": "", "tags": []}\n' * 200_000)
    with pytest.raises(DataError, match=r"other.jsonl:2: .*\(51 bad rows of 52 read\)"):
        read_rows_of(make_config({"data": str(path)}))
