"""Tags in several columns: numbered ones, and a column of 0 and 1 for each; tags inside objects, as labelling tools write
them; what only looks like it; runs from before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from florilegium.config import make_config, read_config
from florilegium.config.renamed import settings_of_run
from florilegium.data import Rows, read_rows
from florilegium.data.read import read_rows_of

WORDS = ("sea", "home", "river", "boat", "bread", "rain", "night", "wind", "tree", "stone", "light", "road")


def write(folder: Path, header: str, *cells: str) -> Path:
    """A table of twelve quotes; `cells` are what stands behind each, one for every row or taken in turn."""
    path = folder / "q.csv"
    lines = [f"Be kind to the {word} while it is there,{cells[i % len(cells)]}" for i, word in enumerate(WORDS)]
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def tags(rows: Rows) -> list[object]:
    return [quote.get("tags") for quote in rows.quotes]


@pytest.mark.parametrize(
    "names", ["tag1,tag2,tag3", "Tag 1,Tag 2,Tag 3", "label_0,label_1,label_2", "topic[0],topic[1],topic[2]"]
)
def test_numbered_columns_are_one(tmp_path: Path, names: str) -> None:
    rows = read_rows(write(tmp_path, f"quote,{names}", "love,life,", "life,,hope", ",,"))
    assert tags(rows)[:3] == [["love", "life"], ["life", "hope"], []] and rows.template.columns == ("quote", "tags")
    named = [f"'{name}'" for name in names.split(",")]
    assert f"{named[0]}, {named[1]} and {named[2]} are read as one, 'tags'" in rows.notes


@pytest.mark.parametrize(("yes", "no"), [("1", "0"), ("1.0", "0.0"), ("True", "False"), ("1", "")])
def test_columns_of_marks_are_tags_by_their_names(tmp_path: Path, yes: str, no: str) -> None:
    path = write(
        tmp_path,
        "text,joy,self_doubt,anger",
        f"{yes},{no},{no}",
        f"{yes},{yes},{no}",
        f"{no},{no},{yes}",
        f"{no},{no},{no}",
    )
    rows = read_rows(path)
    assert tags(rows)[:4] == [["joy"], ["joy", "self doubt"], ["anger"], []]
    assert "'joy', 'self_doubt' and 'anger' hold 0 or 1: the tags are the names of those with 1" in rows.notes


def test_what_stands_before_each_name_is_no_part_of_the_tag(tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path, "quote,tag_joy,tag_anger,tag_fear", "1,0,0", "0,1,1"))
    assert tags(rows)[:2] == [["joy"], ["anger", "fear"]]


@pytest.mark.parametrize(
    ("header", "cells", "found"),
    [
        ("quote,joy,anger", ("1,0", "0,1"), None),  # two: rather flags
        ("quote,joy,anger,stars", ("1,0,3", "0,1,4"), None),  # numbers are no marks
        ("quote,mood,joy,anger,fear", ("glad,1,0,0", "sad,0,1,1"), ["glad"]),  # a column is called as tags are
        ("quote,label,joy,anger", ("1,0,0", "0,1,1"), ["1"]),
        ("quote,a,b,c", ("1,1,1", "1,1,1"), None),  # nothing is ever 0
        ("quote,page1,page2", ("12,13", "14,15"), None),
        ("quote,tags,tag1,tag2", ("x,love,life", "y,life,love"), ["x"]),
    ],
)
def test_other_columns_are_left_alone(
    tmp_path: Path, header: str, cells: tuple[str, ...], found: list[str] | None
) -> None:
    rows = read_rows(write(tmp_path, header, *cells))
    assert tags(rows)[0] == found and not any("read as one" in note or "hold 0 or 1" in note for note in rows.notes)


def test_a_column_that_is_asked_for_stays_what_it_is(tmp_path: Path) -> None:
    path = write(tmp_path, "quote,tag1,tag2", "love,life", "life,hope")
    assert tags(read_rows(path, tags_column="tag1"))[0] == ["love"]
    assert read_rows(path, "{quote} ->: {tag2}").template.columns == ("quote", "tag2")
    assert tags(read_rows(path, join_tag_columns=False))[0] in (["love"], ["life"])


def test_a_run_from_before_reads_its_columns_as_it_did(tmp_path: Path) -> None:
    path = write(tmp_path, "quote,joy,anger,fear", "1,0,0", "0,1,1")
    (tmp_path / "config.yaml").write_text(f"data: {path}\n", encoding="utf-8")
    written = read_config(tmp_path / "config.yaml")
    before, now = make_config(settings_of_run(written)), make_config(written)
    assert read_rows_of(before).template.columns == ("quote",) and read_rows_of(now).template.columns == (
        "quote",
        "tags",
    )
    assert (before.split_on, now.split_on) == ("first-column", "auto")


def chosen(*choices: str) -> dict[str, Any]:
    """An annotation as Label Studio exports it."""
    value = {"choices": list(choices)} if choices else {"start": 3}
    return {"id": 5, "result": [{"value": value, "type": "choices"}]}


@pytest.mark.parametrize(
    ("row", "found", "said"),
    [
        ({"meta": {"tags": ["joy", "rain"], "by": "x"}}, ["joy", "rain"], "the tags are in 'meta', under 'tags'"),
        ({"annotation": {"labels": "joy, rain"}}, ["joy", "rain"], "under 'labels'"),
        ({"cats": {"joy": 1.0, "fear": 0.0, "rain": 1.0}}, ["joy", "rain"], "'cats' holds 0 or 1 for each tag"),
        ({"sentiment": {"choices": ["joy", "rain"]}}, ["joy", "rain"], "the tags are in 'sentiment', under 'choices'"),
        (
            {"annotations": [chosen(), chosen("joy", "rain")]},
            ["joy", "rain"],
            "the tags are the choices in 'annotations'",
        ),
        ({"meta": {"by": "x", "at": "y"}}, None, ""),
        ({"meta": {"tags": ["joy"]}, "mood": "glad"}, ["glad"], ""),
    ],
)
@pytest.mark.parametrize("within", [False, True])
def test_tags_inside_an_object(
    tmp_path: Path, row: dict[str, Any], found: list[str] | None, said: str, within: bool
) -> None:
    path = tmp_path / "q.jsonl"
    texts = [f"Be kind to the {word} while it is there" for word in WORDS]
    rows = [{"data": {"text": text}, **row} if within else {"text": text, **row} for text in texts]
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    read = read_rows(path)
    assert tags(read)[0] == found and len(read.quotes) == len(WORDS)
    told = [note for note in read.notes if "the tags are " in note]
    assert said in told[0] if said else not told
    assert tags(read_rows(path, join_tag_columns=False))[0] == (found if not said else None)


def test_an_annotation_that_is_missing_is_no_tag(tmp_path: Path) -> None:
    path = tmp_path / "q.json"
    annotations = [[chosen("joy")], [], [chosen()], None]
    rows = [
        {"data": {"text": f"Be kind to the {w} while it lasts"}, "annotations": annotations[i % 4]}
        for i, w in enumerate(WORDS)
    ]
    path.write_text(json.dumps(rows), encoding="utf-8")
    assert tags(read_rows(path))[:4] == [["joy"], [], [], []]


@pytest.mark.parametrize(
    ("cells", "column", "found"),
    [
        (tuple(WORDS), 2, ["sea"]),  # none comes again
        (("0", "4"), 2, ["0"]),
        (
            tuple(f"{4 * (i % 2)},{17 + i},NO_QUERY,user{i}" for i in range(12)),
            2,
            ["0"],
        ),  # what is the same in all rows says nothing
    ],
)
def test_the_tags_of_a_file_without_a_header(
    tmp_path: Path, cells: tuple[str, ...], column: int, found: list[str]
) -> None:
    path = tmp_path / "q.csv"
    lines = [f"Be kind to the {word} while it is there,{cells[i % len(cells)]}" for i, word in enumerate(WORDS)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    rows = read_rows(path)
    assert tags(rows)[0] == found and f"the text is 'column 1', the tags 'column {column}'" in rows.notes[0]


def test_a_column_that_says_the_same_in_every_row_is_no_tag(tmp_path: Path) -> None:
    assert tags(read_rows(write(tmp_path, "quote,origin", "web")))[0] is None
