"""Of files as people have them: which columns are taken for what, what is said of it, and that the user wins."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest

from florilegium.data import read_rows
from florilegium.errors import DataError, UsageError
from tests.data.wild_rows import QUOTES, ROWS, renamed, table, trained
from tests.data.wild_table import READ


def test_authors_are_found(tmp_path: Path) -> None:
    for name in ("with_author.txt", "fortunes", "list.md", "german.csv", "a.jsonl"):
        data = next(row[1] for row in READ if row[0] == name)
        (tmp_path / name).write_bytes(data())
        assert read_rows(tmp_path / name).authors == [row["author"] for row in ROWS], name


def test_a_class_label_is_read_by_its_name(tmp_path: Path) -> None:
    features = {"info": {"features": {"label": {"names": ["sad", "glad"], "_type": "ClassLabel"}}}}
    data = pyarrow.Table.from_pylist([{"text": q, "label": n % 2} for n, q in enumerate(QUOTES)])
    data = data.replace_schema_metadata({"huggingface": json.dumps(features)})
    pyarrow.parquet.write_table(data, tmp_path / "q.parquet")
    assert trained(read_rows(tmp_path / "q.parquet"))[:2] == [f"{QUOTES[0]} ->: sad", f"{QUOTES[1]} ->: glad"]


def test_the_user_wins(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_bytes(
        table([{"text": "x y z", "Long One": row["quote"], "mood": "a/b"} for row in ROWS])
    )
    rows = read_rows(tmp_path / "q.csv", text_column="long-one", tags_column="Mood", tags_separator="/")
    assert trained(rows)[0] == f"{QUOTES[0]} ->: a, b"
    assert trained(read_rows(tmp_path / "q.csv", "{Long One} = {mood}"))[0] == f"{QUOTES[0]} = a/b"
    with pytest.raises(DataError, match="no column 'nothing'; found: text, Long One, mood. Type --text-column"):
        read_rows(tmp_path / "q.csv", text_column="nothing")
    with pytest.raises(DataError, match=r"no column 'quotation'; found: .*Type --template \"\{text\}"):
        read_rows(tmp_path / "q.csv", "{quotation} by {mood}")
    with pytest.raises(UsageError):
        read_rows(tmp_path / "q.csv", "{Long.One}")


SAID = {
    "semicolons.csv": "semicolons.csv: columns are separated by semicolons",
    "no_header.csv": "no_header.csv: no header, the first row is one of the rows; columns are called 'column 1' to 'column 3'",
    "windows.csv": "windows.csv: 12 lines are Windows-1252, not UTF-8: converted",
    "bars_in_cells.csv": "the text is 'quote', the tags 'tags' (split at '|')",
    "semicolons_in_cells.csv": "the text is 'quote', the tags 'genre' (split at ';')",
    "full_width.jsonl": "the text is 'quote', the tags 'tags' (split at '，')",
    "null_tags.jsonl": "2 of 12 rows have no tags",
    "comma_in_item.jsonl": "12 rows with a comma in a tag: it becomes two tags, since tags are separated by commas",
    "two_languages.csv": "the text is 'quote_en', the tags 'tags'; 'quote_de' could be the text, too (--text-column NAME)",
    "text_alone.jsonl": "the text is 'text'; no column of tags, so the text alone is trained (--tags-column names one)",
}  # fmt: skip


@pytest.mark.parametrize("name", SAID)
def test_what_was_taken_for_what_is_said(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(next(row[1] for row in READ if row[0] == name)())
    assert SAID[name] in read_rows(tmp_path / name).notes


def test_several_columns_could_be_tags(tmp_path: Path) -> None:
    rows = [{"text": q, "category": f"a{n % 3}", "topic": f"b{n % 4}", "mood": "c"} for n, q in enumerate(QUOTES)]
    (tmp_path / "q.csv").write_bytes(table(rows))
    (said,) = read_rows(tmp_path / "q.csv").notes
    assert said.endswith("the tags 'category'; 'topic', 'mood' could be tags, too (--tags-column NAME)")
    chosen = read_rows(tmp_path / "q.csv", tags_column="topic")
    assert trained(chosen)[1] == f"{QUOTES[1]} ->: b1" and "could be" not in chosen.notes[0]


def test_files_with_other_columns_say_which(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(table(renamed(quote="quote", tags="tags")))
    (tmp_path / "b.csv").write_bytes(table([{"text": q.upper(), "label": "home"} for q in QUOTES]))
    assert "b.csv: the text is 'text', the tags 'label'" in read_rows(tmp_path).notes


@pytest.mark.parametrize(
    "above", [",,,,,,\n", "My quotes,,,,,,\n,,,,,,\n", "My quotes,,,,,,\nof 2026,,,,,,\n,,,,,,\n", ',"",,,,,\n,,,,,,\n']
)
def test_empty_rows_of_a_spreadsheet_above_the_header(tmp_path: Path, above: str) -> None:
    names = ["id", "quote", "author", "tags", "source_title", "publication_year", "url"]
    rows = [
        dict(
            zip(
                names,
                [str(n), row["quote"], row["author"], row["tags"], "A Book", "1990", "http://a.example"],
                strict=True,
            )
        )
        for n, row in enumerate(ROWS)
    ]
    (tmp_path / "q.csv").write_bytes(above.encode() + table(rows))
    assert trained(read_rows(tmp_path / "q.csv"))[:2] == [f"{QUOTES[0]} ->: home", f"{QUOTES[1]} ->: time, sea"]


@pytest.mark.parametrize("stated", ["A1:B3", "A1"])
def test_a_sheet_that_states_too_small_a_size_is_read_whole(tmp_path: Path, stated: str) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in [["quote", "tags"], *([row["quote"], ", ".join(row["tags"])] for row in ROWS)]:
        book.active.append(row)
    book.save(tmp_path / "whole.xlsx")
    with zipfile.ZipFile(tmp_path / "whole.xlsx") as whole, zipfile.ZipFile(tmp_path / "q.xlsx", "w") as said:
        for name in whole.namelist():
            said.writestr(name, whole.read(name).replace(b'ref="A1:B13"', f'ref="{stated}"'.encode()))
        assert b'ref="A1:B13"' in whole.read("xl/worksheets/sheet1.xml")
    assert len(read_rows(tmp_path / "q.xlsx").quotes) == len(ROWS)


def test_columns_that_are_named_go_to_the_places_of_that_name(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_bytes(table([{"body": row["quote"], "cats": "hope, sea"} for row in ROWS]))
    rows = read_rows(tmp_path / "q.csv", "{tags} => {quote}", text_column="body", tags_column="cats")
    assert trained(rows)[0] == f"hope, sea => {QUOTES[0]}"
    with pytest.raises(UsageError, match="no place for tags"):
        read_rows(tmp_path / "q.csv", "{quote}", tags_column="cats")
