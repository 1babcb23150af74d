"""A run writes into the folder that it began in, or stops: not where a link leads that was put there meanwhile. And names
that cannot be written down are refused before anything is."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import florilegium
from florilegium.errors import DataError, ResourceError, UsageError
from florilegium.runs.recorder import NullView


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    words = "abcdefghijklmnopqrst"
    path.write_text("".join(json.dumps({"quote": f"Be kind to {w}.", "tags": [w]}) + "\n" for w in words))
    return path


class Swapper(NullView):
    """Does something to the folders of a run after its second step."""

    def __init__(self, swap: Callable[[], None]) -> None:
        self.swap = swap

    def step(self, metrics: Any, num_steps: int) -> None:
        if metrics.step == 2:
            self.swap()


def swapped(path: Path, elsewhere: Path) -> None:
    path.rename(path.with_name(path.name + ".away"))
    elsewhere.mkdir()
    (elsewhere / "step-00000001").mkdir()
    path.symlink_to(elsewhere)


@pytest.mark.parametrize("part", [".", "checkpoints"])
def test_a_link_put_there_while_training_is_not_followed(tiny: Path, rows: Path, tmp_path: Path, part: str) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    view = Swapper(lambda: swapped(Path(os.path.normpath(run / part)), elsewhere))
    with pytest.raises(ResourceError, match="was replaced while the run was writing to it"):
        train(tiny, rows, run, view)
    assert [path.name for path in elsewhere.iterdir()] == ["step-00000001"]


def test_another_folder_put_there_is_not_written_into(tiny: Path, rows: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"

    def swap() -> None:
        run.rename(tmp_path / "away")
        run.mkdir()

    with pytest.raises(ResourceError, match="was replaced while the run was writing"):
        train(tiny, rows, run, Swapper(swap))
    assert not run.exists() or not list(run.iterdir())


def train(tiny: Path, rows: Path, run: Path, view: NullView) -> None:
    settings = {
        "bits": 32,
        "max_steps": 6,
        "save_every": 1,
        "batch_size": 4,
        "device": "cpu",
        "log_every": 1,
        "verdict_texts": 0,
    }
    florilegium.train(rows, model=str(tiny), output=str(run), view=view, **settings)


@pytest.mark.parametrize("which", ["data", "output", "model"])
def test_a_name_that_is_not_utf8_is_refused_before_anything_is_written(
    tiny: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"data": rows, "output": tmp_path / "run", "model": tiny}
    odd = os.fsdecode(b"caf\xe9")
    given[which] = given[which].with_name(odd) if which != "model" else tmp_path / odd
    if which != "output":
        os.symlink(rows if which == "data" else tiny, given[which])
    before = sorted(os.listdir(tmp_path))
    with pytest.raises((UsageError, DataError), match="is not UTF-8"):
        florilegium.train(given["data"], model=str(given["model"]), output=str(given["output"]), bits=32, max_steps=1)
    assert sorted(os.listdir(tmp_path)) == before
