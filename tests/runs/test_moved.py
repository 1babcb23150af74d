"""A run that is resumed, evaluated or trained further from another folder, or after its folder was moved: rows and base
are found where they lie now, and what lies there is compared by its digest."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

import florilegium
from florilegium.config import TrainConfig, read_config
from florilegium.errors import DataError
from florilegium.runs.evaluate import read_eval_data
from florilegium.runs.moved import found_again
from florilegium.runs.start_from import inherited_settings

ROWS = "".join(json.dumps({"quote": f"Be kind to {w}.", "tags": [w]}) + "\n" for w in "abcdefghijklmnopqrst")


@pytest.fixture
def project(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with rows, a base and a run that stands at step 2 of 4, all named from inside."""
    folder = tmp_path / "project"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "rows.jsonl").write_text(ROWS)
    shutil.copytree(tiny, folder / "base")
    monkeypatch.chdir(folder)
    florilegium.train(
        "data/rows.jsonl", model="base", output="runs/one", max_steps=4, save_every=2, batch_size=4, bits=32,
        device="cpu", held_out=0.3, split_by="random", verdict_texts=0,
    )  # fmt: skip
    shutil.rmtree("runs/one/adapter")
    shutil.rmtree("runs/one/checkpoints/step-00000004")
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_run_is_used_from_another_folder_and_after_a_move(project: Path, tmp_path: Path) -> None:
    run = project / "runs" / "one"
    assert inherited_settings({"start_from": str(_finished(run))})["data"] == str(project / "data" / "rows.jsonl")
    moved = tmp_path / "elsewhere"
    project.rename(moved)
    run = moved / "runs" / "one"
    florilegium.resume(run)
    assert "changed data from data/rows.jsonl to" in (run / "events.jsonl").read_text()
    assert read_config(run / "config.yaml")["model"] == str(moved / "base")
    assert len(read_eval_data(run).held_out) == 5
    moved.rename(project)  # and back: the names in full lead nowhere
    shutil.rmtree(project / "runs" / "one" / "adapter")
    florilegium.resume(project / "runs" / "one")
    assert read_config(project / "runs" / "one" / "config.yaml")["data"] == str(project / "data" / "rows.jsonl")


def _finished(run: Path) -> Path:
    """A copy of the run with an adapter, beside it."""
    copy = run.with_name("finished")
    shutil.copytree(run, copy)
    (copy / "adapter").mkdir()
    (copy / "adapter" / "adapter_config.json").write_text("{}")
    return copy


def test_other_rows_by_the_same_name_and_rows_that_are_lost_are_refused(project: Path, tmp_path: Path) -> None:
    run = project / "runs" / "one"
    before = sorted((str(path), path.stat().st_mtime_ns) for path in run.rglob("*") if path.name != ".lock")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.jsonl").write_text(ROWS.replace("kind", "good"))
    with pytest.raises(DataError, match="the data in data/rows.jsonl has changed"):
        florilegium.resume(run)
    shutil.rmtree(tmp_path / "data")
    shutil.rmtree(project / "data")
    with pytest.raises(DataError, match="was not found: data/rows.jsonl") as refused:
        florilegium.resume(run)
    assert f"set `data:` in {run}/config.yaml" in str(refused.value.fix)
    assert before == sorted((str(path), path.stat().st_mtime_ns) for path in run.rglob("*") if path.name != ".lock")


def test_what_is_here_or_bundled_or_on_the_hub_keeps_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "a" / "runs" / "one"
    run.mkdir(parents=True)
    for folder in (tmp_path, tmp_path / "a"):
        (folder / "rows.csv").touch()
        (folder / "sample").touch()
    monkeypatch.chdir(tmp_path)
    for data in ("rows.csv", "sample", "somebody/quotes", os.path.join("..", tmp_path.name, "rows.csv")):
        assert found_again(TrainConfig(data=data), run).data == data
    (tmp_path / "rows.csv").unlink()
    assert found_again(TrainConfig(data="rows.csv"), run).data == str(tmp_path / "a" / "rows.csv")
