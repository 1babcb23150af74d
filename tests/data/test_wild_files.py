"""Every kind of file that people have is read as its owner means it, or refused with what to type (`wild_table.py`).

`FLORILEGIUM_WILD_FILES` names a folder of more such files, made by hand and by other people's programs; what must be read
of each stands in `wild_files.md`, whose lines `wild_table.py` holds by kind where that folder is missing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from florilegium.data import make_split, read_rows
from florilegium.errors import DataError
from tests.data.wild_rows import QUOTES, ROWS, WITH_TAGS, Table, arrow, jsonl, table, trained
from tests.data.wild_table import READ, REFUSED


@pytest.mark.parametrize(("name", "data", "texts"), READ, ids=[row[0] for row in READ])
def test_a_file_is_read_as_its_owner_means_it(
    tmp_path: Path, name: str, data: Callable[[], bytes], texts: list[str]
) -> None:
    (tmp_path / name).write_bytes(data())
    rows = read_rows(tmp_path / name)
    assert trained(rows) == texts
    assert rows.skipped == [] and rows.num_read == len(texts) and rows.notes


@pytest.mark.parametrize(("name", "data", "says"), REFUSED, ids=[row[0] for row in REFUSED])
def test_what_is_refused_says_why_and_what_to_type(
    tmp_path: Path, name: str, data: Callable[[], bytes], says: str
) -> None:
    (tmp_path / name).write_bytes(data())
    with pytest.raises(DataError, match=says) as caught:
        read_rows(tmp_path / name)
    assert name in str(caught.value) and caught.value.fix and "\n" not in str(caught.value)


def test_a_typed_line_break_is_told(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_bytes(table(ROWS))
    (said,) = (note for note in read_rows(tmp_path / "q.csv", r"{quote} ->:\n{tags}").notes if "line break" in note)
    assert said.endswith(r"""for a line break quote it as $'...\n...'""")
    assert not any("line break" in note for note in read_rows(tmp_path / "q.csv", "{quote} ->:\n{tags}").notes)


def test_of_files_of_which_none_is_good_the_causes_are_counted(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"quote": ""}\n' * 3 + "{\n" * 2 + '{"quote": "\\u0000"}\n')
    with pytest.raises(DataError, match=r"none of its 6 rows is good; .*:1: .* is empty; 3 .*, 2 .*, 1 ") as caught:
        read_rows(tmp_path / "q.jsonl", skip_bad_rows=True)
    assert caught.value.fix


def test_saved_data_sets_are_read(tmp_path: Path) -> None:
    def save(folder: Path, rows: Table) -> None:
        folder.mkdir(parents=True)
        (folder / "data-00000-of-00001.arrow").write_bytes(arrow(rows, stream=True))
        (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
        (folder / "dataset_info.json").write_text("{}")

    save(tmp_path / "one", ROWS)
    assert trained(read_rows(tmp_path / "one")) == WITH_TAGS
    save(tmp_path / "both" / "train", ROWS[:8])
    save(tmp_path / "both" / "test", ROWS[8:])
    (tmp_path / "both" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    found = read_rows(tmp_path / "both")
    assert trained(found) == WITH_TAGS and found.held_out_from == 8


def test_a_held_out_file_takes_its_near_copies_out_of_training(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_bytes(table(ROWS))
    held: Table = [
        {"text": QUOTES[2].upper(), "labels": ["x"]},
        {"text": QUOTES[5].replace("waits for", "looks for"), "labels": ["y"]},
        {"text": "Nothing like it was ever said here.", "labels": []},
    ]
    (tmp_path / "mine.jsonl").write_bytes(jsonl(held))
    rows = read_rows(tmp_path / "train.csv", held_out_file=tmp_path / "mine.jsonl")
    split = make_split(rows.quotes, 0.1, 0, held_out_from=rows.held_out_from)
    assert split.held_out == [12, 13, 14] and split.set_aside == [2, 5] and len(split.training) == 10
    assert rows.quotes[12] == {"quote": QUOTES[2].upper(), "tags": ["x"]}


def test_an_unclosed_quotation_mark_is_one_bad_row(tmp_path: Path) -> None:
    lines = table(ROWS).decode().split("\n")
    lines[4] = '"' + lines[4]
    (tmp_path / "q.csv").write_text("\n".join(lines))
    rows = read_rows(tmp_path / "q.csv", skip_bad_rows=True)
    assert trained(rows) == WITH_TAGS[:3] + WITH_TAGS[4:] and [p.place for p in rows.skipped] == ["q.csv:5"]


WILD = os.environ.get("FLORILEGIUM_WILD_FILES", "")
TABLE = Path(__file__).with_name("wild_files.md")
HEAD = """| file | rows | held out | the first, as trained | what is said |
|---|---|---|---|---|
"""


def wild_line(path: Path) -> str:
    """A file's line in the table: what is read of it, or why it is refused."""
    try:
        rows = read_rows(path, skip_bad_rows=True)
    except DataError as error:
        assert error.fix and "\n" not in str(error)
        return f"| {path.name} | refused | | | {str(error).replace(str(path), path.name)} |\n".replace("  ", " ")
    assert rows.notes and all(text.strip() for text in trained(rows))
    held_out = "" if rows.held_out_from is None else f"{len(rows.quotes) - rows.held_out_from}"
    bad = [f"{len(rows.skipped)} bad: {rows.skipped[0].place}: {rows.skipped[0].cause}"] if rows.skipped else []
    repeated = [f"{rows.duplicates} duplicates"] if rows.duplicates else []
    said = "; ".join([*rows.notes, *bad, *repeated]).replace("|", "\\|")
    first = json.dumps(trained(rows)[0], ensure_ascii=False).replace("|", "\\|")
    return f"| {path.name} | {len(rows.quotes)} | {held_out} | `{first}` | {said} |\n"


@pytest.mark.skipif(not WILD, reason="FLORILEGIUM_WILD_FILES names no folder")
def test_every_wild_file_is_read_as_the_table_says() -> None:
    """`FLORILEGIUM_WRITE_TABLE=1` writes the table: read each line with the eyes of the file's owner before it is kept."""
    lines = HEAD + "".join(wild_line(path) for path in sorted(Path(WILD).iterdir()))
    if os.environ.get("FLORILEGIUM_WRITE_TABLE"):
        TABLE.write_text(lines, encoding="utf-8")
    assert lines.splitlines() == TABLE.read_text(encoding="utf-8").splitlines()
