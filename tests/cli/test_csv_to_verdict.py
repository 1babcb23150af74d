"""What a newcomer does: a CSV of 300 quotes of one's own, one command, a verdict."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import florilegium
from florilegium.cli.main import main
from tests.data.test_bad_rows import write_csv


@pytest.mark.slow
def test_one_command_from_a_csv_to_a_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_csv(tmp_path / "my_quotes.csv")
    assert main(["train", str(path), "--output", str(tmp_path / "run"), "--json"]) == 0
    printed = capsys.readouterr()
    assert "the text is 'Quote', the tags 'Category'" in printed.err and "1 bad row skipped" in printed.err
    verdict = json.loads(printed.out)["verdict"]
    assert verdict["works"] and verdict["well_formed"] >= 19, verdict
    rows = florilegium.load(tmp_path / "run").generate("", n=100, seed=11)
    assert sum(bool(row.quote and row.quote["tags"]) for row in rows) >= 95
    assert sum(row.novel is False for row in rows) <= 5
