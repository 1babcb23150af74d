"""A run made once: a tiny BLOOM tuned for two steps on forty sayings."""

from __future__ import annotations

from pathlib import Path

import pytest

from florilegium.seedling import SAYINGS


@pytest.fixture(scope="session")
def tiny_run(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from florilegium.runs.train import train

    folder = tmp_path_factory.mktemp("export")
    rows = folder / "rows.jsonl"
    rows.write_text("".join(SAYINGS.read_text(encoding="utf-8").splitlines(keepends=True)[:500]), encoding="utf-8")
    settings = {"model": str(tiny), "max_steps": 2, "bits": 32, "batch_size": 4, "device": "cpu", "learning_rate": 0.01}
    return train(rows, output=str(folder / "run"), held_out=0.1, **settings).directory
