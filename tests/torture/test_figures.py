"""RELIABILITY.md says by commit how old each figure is, and none may be too old."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.torture.figures import LINES, table

ROOT = Path(__file__).parent.parent.parent
OLDEST = 200  # commits that changed `src`


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


def test_no_figure_is_older_than_200_commits_of_the_program() -> None:
    if git("rev-parse", "--is-shallow-repository") != "false":
        pytest.skip("the history is not here")
    commits = set(re.findall(r", \d{4}-\d\d-\d\d, ([0-9a-f]{7,}) \|", (ROOT / "RELIABILITY.md").read_text()))
    ages = {commit: int(git("rev-list", "--count", f"{commit}..HEAD", "--", "src") or 0) for commit in commits}
    assert commits and max(ages.values()) <= OLDEST, f"run `make torture`: {ages}"


def test_the_table_has_every_line_and_says_what_was_not_run() -> None:
    row = {"text": "all of them", "seconds": 1.0, "all": True, "at": "2026-01-01", "commit": "abc1234"}
    text = table({"hostile": row})
    assert text.count("**not run**") == len(LINES) - 1 and "| all of them | all, 2026-01-01, abc1234 | 1 |" in text
