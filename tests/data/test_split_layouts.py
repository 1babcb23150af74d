"""Whatever way a folder is laid out: what a name holds back is never trained, and the advice is never to train on it."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from florilegium.data import make_split, read_rows
from florilegium.errors import DataError
from tests.rights import without_rights

LETTERS = "abcdefgh"
# Each layout: files with the mark of the rows in them. T is to be trained, H held out, o left alone.
LAYOUTS: dict[str, str] = {
    "plain": "train.jsonl=T validation.jsonl=H test.jsonl=o",
    "two": "train.jsonl=T test.jsonl=H",
    "dev": "train.jsonl=T dev.jsonl=H test.jsonl=o",
    "eval": "train.jsonl=T eval.jsonl=H",
    "words": "quotes_train.jsonl=T quotes-test.jsonl=H",
    "dots": "quotes.train.jsonl=T quotes.holdout.jsonl=H",
    "sets": "trainset.jsonl=T testset.jsonl=H",
    "capitals": "TRAIN.JSONL=T Test.JSONL=H",
    "camel": "QuotesTrain.jsonl=T QuotesVal.jsonl=H",
    "numbers": "train1.jsonl=T train2.jsonl=T test1.jsonl=H",
    "shards": "train-00000-of-00002.jsonl=T train-00001-of-00002.jsonl=T test-00000-of-00001.jsonl=H",
    "folders": "train/a.jsonl=T validation/a.jsonl=H test/a.jsonl=o",
    "training": "training/a.jsonl=T held_out/a.jsonl=H",
    "clone": "data/train-00000-of-00001.jsonl=T data/test-00000-of-00001.jsonl=H README.md=-",
    "clone_of_folders": "data/train/a.jsonl=T data/test/a.jsonl=H dataset_infos.json=-",
    "both": "train.jsonl=T validation/a.jsonl=H",
    "beside_data": "data/train.jsonl=T eval.jsonl=H",
    "test_in_train": "train/train.jsonl=T train/test.jsonl=H",
    "notes": "train/a.jsonl=T test/a.jsonl=H labels.txt=-",
    "no_train": "quotes.jsonl=T test.jsonl=H",
    "no_train_many": "a.jsonl=T b.jsonl=T validation.jsonl=H test.jsonl=o",
    "others": "train.jsonl=T test.jsonl=H unlabelled.jsonl=o",
    "packed": "train.jsonl.gz=T test.jsonl.gz=H",
    "mixed": "train.csv=T test.jsonl=H",
    "heap": "a.jsonl=T contrain.jsonl=T latest.jsonl=T",
    "only_train": "train-1.jsonl=T train-2.jsonl=T",
    "only_test": "test.jsonl=T",
}


def lay(folder: Path, layout: str) -> None:
    """The files of a layout; each row says whose it is."""
    for number, entry in enumerate(layout.split()):
        name, mark = entry.rsplit("=", 1)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        texts = [f"{mark} {letter * 3} is row {number} of its own {letter * 5}." for letter in LETTERS]
        if mark == "-":
            path.write_text("{}" if name.endswith("json") else "- one\n- two\n")
        elif name.endswith(".csv"):
            path.write_text("quote,tags\n" + "".join(f"{text},home\n" for text in texts))
        else:
            data = "".join(json.dumps({"quote": text, "tags": ["home"]}) + "\n" for text in texts).encode()
            path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_no_row_is_trained_that_a_split_holds_back(tmp_path: Path, layout: str) -> None:
    lay(tmp_path, layout)
    rows = read_rows(tmp_path)
    marks = [str(quote["quote"])[0] for quote in rows.quotes]
    assert len(marks) == len(LETTERS) * (layout.count("=T") + layout.count("=H"))
    if "=H" in layout:
        split = make_split(rows.quotes, 0.1, 0, held_out_from=rows.held_out_from)
        assert {marks[i] for i in split.training} == {"T"} and {marks[i] for i in split.held_out} == {"H"}
        assert "held out: '" in rows.notes[0] and ("not used" in rows.notes[0]) == ("=o" in layout)
    else:
        assert rows.held_out_from is None and set(marks) == {"T"}


@pytest.mark.parametrize(
    ("layout", "says"),
    [
        ("validation.jsonl=H test.jsonl=o", "has the splits validation, test, and none to train on. Type --split val"),
        ("test/a.jsonl=o", "a folder without a data file. Put "),
        ("en/train.jsonl=T en/test.jsonl=H", "Did you mean [^ ]*/en[?]"),
        ("en/a.jsonl=T de/a.jsonl=T test/a.jsonl=H", "Did you mean [^ ]*/de or [^ ]*/en[?]"),
        ("default/train/0000.jsonl=T default/test/0000.jsonl=H", "Did you mean [^ ]*/default[?]"),
        ("a/b/c/train.jsonl=T", "Did you mean [^ ]*/a/b/c[?]"),
    ],
)
def test_what_cannot_be_told_is_asked(tmp_path: Path, layout: str, says: str) -> None:
    lay(tmp_path, layout)
    with pytest.raises(DataError, match=says) as caught:
        read_rows(tmp_path)
    advice = caught.value.fix.replace(str(tmp_path), "")
    assert "/test" not in advice and "--split test" not in advice


def test_a_split_is_named(tmp_path: Path) -> None:
    lay(tmp_path, "validation.jsonl=H test.jsonl=o")
    assert {str(quote["quote"])[0] for quote in read_rows(tmp_path, split="validation").quotes} == {"H"}
    lay(tmp_path / "only", "test/a.jsonl=o")
    assert {str(quote["quote"])[0] for quote in read_rows(tmp_path / "only", split="test").quotes} == {"o"}


def test_a_link_to_its_own_folder_is_no_second_copy(tmp_path: Path) -> None:
    lay(tmp_path, "train.jsonl=T test.jsonl=H")
    (tmp_path / "train").symlink_to(tmp_path, target_is_directory=True)
    assert read_rows(tmp_path).num_read == 2 * len(LETTERS)


LOCKED = [
    ("train/a.jsonl=T test/a.jsonl=H", "train"),
    ("train/a.jsonl=T test/a.jsonl=H", "test"),
    ("train.jsonl=T validation/a.jsonl=H", "validation"),
    ("data/train.jsonl=T eval.jsonl=H", "data"),
    ("data/train/a.jsonl=T data/test/a.jsonl=H", "data/test"),
    ("quotes/a.jsonl=T", "quotes"),
    ("a.jsonl=T", ""),
]


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="rights are another matter on Windows")
@pytest.mark.parametrize("rights", [0o000, 0o644])  # nothing, and names alone (to others than its owner the same)
@pytest.mark.parametrize(("layout", "locked"), LOCKED)
def test_a_folder_that_may_not_be_looked_into_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, locked: str, rights: int
) -> None:
    lay(tmp_path / "rows", layout)
    monkeypatch.chdir(tmp_path)  # what is above is root's alone
    tmp_path.chmod(0o755)
    told = str(Path("rows") / locked)
    with without_rights(tmp_path / "rows" / locked, rights), pytest.raises(DataError) as caught:
        read_rows(Path("rows"))
    assert f"{told}: permission denied" in str(caught.value) and f"chmod u+rx {told}" in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="rights are another matter on Windows")
def test_a_locked_folder_that_no_split_is_called_after_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(tmp_path / "rows", "train.jsonl=T notes/a.jsonl=o")
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o755)
    with without_rights(tmp_path / "rows" / "notes", 0):
        assert len(read_rows(Path("rows")).quotes) == len(LETTERS)
