"""Dirt is told from what only looks like it, and taking it out leaves the rest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from florilegium.data import examine, finding_sentences, read_rows
from florilegium.data.cleaning import cleaned
from florilegium.data.data_report import GluedTags

DIRTY = [
    ("Tom &amp; Jerry&#39;s<br>lamp", "Tom & Jerry's\nlamp"),
    ("Tom &amp;amp; Jerry", "Tom & Jerry"),
    ("<p>One</p> <i>two</i>", "One\ntwo"),
    ('It\\u2019s late.\\nSo it goes, she said: \\"no\\"', 'It’s late.\nSo it goes, she said: "no"'),
    ("a lamp\x07 \x1b[1mburns\x1b[0m", "a lamp burns"),
    ("donâ€™t &lt;b&gt;", "don’t <b>"),
]
CLEAN = [
    "I <3 you & me",
    "a < b > c",
    "AT&T; R&D",
    "C:\\new\\table",
    "the \\nabla operator",
    "a\nb\tc",
    "<unknown>",
    "5 \\ 3",
    "“so”",
]


@pytest.mark.parametrize(("dirty", "clean"), DIRTY)
def test_dirt_goes(dirty: str, clean: str) -> None:
    assert cleaned(dirty) == clean


@pytest.mark.parametrize("text", CLEAN)
def test_what_is_no_dirt_stays(text: str) -> None:
    assert cleaned(text) is text


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_doctor_names_it_and_fix_encoding_takes_it_out(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"quote": f"Saying number {n} of a good book.", "tags": ["life"]} for n in range(30)
    ]
    rows += [
        {"quote": "quote", "tags": ["tags"]},
        {"quote": "A lamp &amp; a river<br>meet.", "tags": ["nan", "None", "life"]},
        {"quote": "A lamp burns\\u2014so.", "tags": ["N/A"]},
        {"quote": "A \x1b[1mriver sings.", "tags": []},
        {"quote": "['one', 'two']", "tags": ["none"]},
    ]
    path = write(tmp_path / "q.jsonl", rows)
    found = examine(read_rows(path))
    assert {name: f.rows for name, f in found.dirt.items()} == {
        "html": 1, "escapes": 1, "control_characters": 1, "printed_lists": 1, "repeated_header": 1,
    }  # fmt: skip
    assert found.suspicious_tags and found.suspicious_tags.signs["words_for_nothing"].rows == 2
    said = dict(finding_sentences(found))
    assert said["html"].startswith("1 row: q.jsonl:32; --fix-encoding") and "q.jsonl:31" in said["repeated header"]
    mended = read_rows(path, fix_encoding=True)
    assert mended.repaired == 3
    assert mended.quotes[31] == {"quote": "A lamp & a river\nmeet.", "tags": ["life"]}
    assert (
        mended.quotes[32] == {"quote": "A lamp burns—so.", "tags": []}
        and mended.quotes[33]["quote"] == "A river sings."
    )
    assert mended.quotes[34]["tags"] == ["none"], "a label may be called so"
    after = examine(mended)
    assert not any(after.dirt[name].rows for name in ("html", "escapes", "control_characters"))


def glued(path: Path) -> GluedTags:
    found = examine(read_rows(path)).suspicious_tags
    assert found and found.several_in_one
    return found.several_in_one


def test_tags_that_another_sign_glues_are_asked_about(tmp_path: Path) -> None:
    tags = ["time sea", "sea home", "home time", "rest work", "work sea", "rest"]
    path = write(tmp_path / "q.jsonl", [{"quote": f"Saying {n} of it.", "tags": [tags[n % 6]]} for n in range(24)])
    found = glued(path)
    assert (found.rows, found.separator) == (20, " ")
    assert read_rows(path, tags_separator=" ").quotes[0]["tags"] == ["time", "sea"]
    tags = ["science fiction", "young adult", "poetry", "travel", "self help", "true crime"]
    path = write(tmp_path / "r.jsonl", [{"quote": f"Saying {n} of it.", "tags": [tags[n % 6]]} for n in range(24)])
    assert glued(path).rows == 0


def test_no_false_alarms(tmp_path: Path) -> None:
    """One tag a row, here and there two; Chinese and Thai without a blank in them."""
    chinese = "灯在窗前等待河流，直到春天。"
    rows: list[dict[str, object]] = [{"quote": f"{chinese[: 6 + n % 8]}{n}", "tags": ["家"]} for n in range(40)]
    rows += [{"quote": f"แสงไฟรอแม่น้ำ{n}", "tags": ["家", "海"]} for n in range(5)]
    found = examine(read_rows(write(tmp_path / "q.jsonl", rows)))
    assert found.long_outliers.rows == 0 and found.tag_outliers and found.tag_outliers.rows == 0
