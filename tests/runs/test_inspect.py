"""`inspect` looks at what people have: bad rows end nothing, torch is not imported, and the JSON has the keys that
scripts read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from florilegium.errors import DataError
from florilegium.runs.inspect import inspect

GOOD = [f'{{"quote": "Row {n} says {word} to the {word}.", "tags": ["home"]}}' for n, word in enumerate("abcdefghijkl")]
BAD = {
    "broken JSON": '{"quote": "x", ',
    "cut": '{"quote',
    "no object": "[1, 2]",
    "another kind": "7",
    "no text": '{"tags": ["a"]}',
    "empty text": '{"quote": "  ", "tags": []}',
    "null": '{"quote": null, "tags": []}',
    "a number": '{"quote": 7, "tags": []}',
    "NUL": '{"quote": "a\\u0000b"}',
    "half a surrogate": '{"quote": "a\\ud800b"}',
    "an object for tags": '{"quote": "x y", "tags": {"a": 1}}',
    "the separator in the text": '{"quote": "a ->: b", "tags": ["c"]}',
    "twice": '{"quote": "x", "quote": "y"}',
    "too deep": "[" * 3000,
    "a mebibyte": json.dumps({"quote": "x" * (1 << 20)}),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_bad_row_ends_nothing(tmp_path: Path, bad: str) -> None:
    (tmp_path / "q.jsonl").write_text("\n".join([*GOOD[:5], bad, *GOOD[5:], bad]) + "\n")
    report = inspect(tmp_path / "q.jsonl")
    assert (report["num_rows"], report["num_read"], report["skipped"]["rows"]) == (12, 14, 2)
    assert report["skipped"]["places"] == ["q.jsonl:6", "q.jsonl:14"] and len(report["skipped"]["causes"]) == 1
    with pytest.raises(DataError, match=r"q\.jsonl:6"):
        inspect(tmp_path / "q.jsonl", strict=True)


def test_all_bad_rows_are_counted_and_ten_are_named(tmp_path: Path) -> None:
    mixed = [line for pair in zip(GOOD, BAD.values(), strict=False) for line in pair]
    (tmp_path / "q.jsonl").write_text("\n".join([*mixed, *BAD.values()]) + "\n")
    report = inspect(tmp_path / "q.jsonl")
    assert report["skipped"]["rows"] == len(GOOD) + len(BAD) == len(report["skipped_rows"])
    assert len(report["skipped"]["places"]) == 10 and sum(report["skipped"]["causes"].values()) == 27


def test_torch_is_not_imported_and_the_keys_are_there(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise SystemExit(7)\n")
    (tmp_path / "q.jsonl").write_text("\n".join([*GOOD, "{"]) + "\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "florilegium", "inspect", "q.jsonl", "--json"],
        cwd=tmp_path, capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    keys = "template columns list_columns num_rows num_read training_rows held_out_rows findings"
    assert set(keys.split()) <= report.keys() and report["skipped"]["rows"] == 1
    assert [row["text"] for row in report["rows"]][0].startswith("Row ")
