"""A run that is resumed has the rows of its steps as it began with them, also where a later version arranges them
otherwise."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from florilegium.errors import UsageError
from florilegium.runs.resume import resume
from florilegium.runs.train import train
from florilegium.tokens import batch_order
from florilegium.tokens.batch_order import TILE

SETTINGS: dict[str, Any] = {
    "device": "cpu", "batch_size": 32, "max_steps": 4, "save_every": 2, "eval_every": 100, "batching": "tile-aligned",
    "verdict_texts": 0, "held_out": 0.0, "keep_checkpoints": 5, "split_by": "random",
}  # fmt: skip


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 20 to 90 tokens: 32 of them fill several tiles."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    quotes = [" ".join(f"word {i} of {n}" for i in range(2 + n * 7 % 13)) + "." for n in range(160)]
    path.write_text("".join(json.dumps({"quote": quote, "tags": ["sea"]}) + "\n" for quote in quotes))
    return path


@pytest.fixture(scope="module")
def new(tiny: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of this version."""
    run = tmp_path_factory.mktemp("new") / "run"
    train(rows, output=str(run), model=str(tiny), **SETTINGS)
    return run


def losses(run: Path) -> list[float]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [row["loss"] for row in map(json.loads, lines) if "loss" in row]


def stopped_half_way(run: Path) -> None:
    shutil.rmtree(run / "adapter")
    shutil.rmtree(run / "checkpoints" / "step-00000004")


def forget_tile(run: Path) -> int:
    """As a run of a version that did not say it; returns what it was."""
    manifest = json.loads((run / "manifest.json").read_text())
    tile = int(manifest.pop("tile"))
    (run / "manifest.json").write_text(json.dumps(manifest))
    return tile


def test_an_older_run_goes_on_in_its_order(
    tiny: Path, rows: Path, new: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(batch_order, "tiles_of", lambda *_: TILE)
        old = tmp_path / "old"
        train(rows, output=str(old), model=str(tiny), **SETTINGS)
    there = losses(old)
    assert forget_tile(old) == TILE and there[2:] != losses(new)[2:]
    whole = load_file(old / "adapter" / "adapter_model.safetensors")
    stopped_half_way(old)
    resume(old)
    again = load_file(old / "adapter" / "adapter_model.safetensors")
    assert losses(old) == there and all((again[name] == tensor).all() for name, tensor in whole.items())


def test_a_run_remembers_its_order(new: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a later version would choose; and what is no tile is a damaged manifest."""
    run = shutil.copytree(new, tmp_path / "run")
    there = losses(run)
    stopped_half_way(run)
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["tile"] == 2 * TILE
    for wrong in (0, 300, "512", None, 512.5):
        (run / "manifest.json").write_text(json.dumps({**manifest, "tile": wrong}))
        with pytest.raises(UsageError, match="is damaged"):
            resume(run)
    (run / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.setattr(batch_order, "tiles_of", lambda *_: TILE)
    resume(run)
    assert losses(run) == there
