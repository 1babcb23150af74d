"""What `train --from` says was forgotten is measured with the adapter that is kept, not with that of the last step."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file

import florilegium
from florilegium.model import ForwardOptions
from florilegium.model.fused_layers import FusedLayers
from florilegium.model.kernel_protocols import LayerRunner
from florilegium.runs.previous_rows import PreviousRows, _for_rows
from florilegium.tokens import Example
from florilegium.training import Trainer

OLD = [{"quote": f"The sea is kind to {i} boats.", "tags": ["sea", "home"]} for i in range(40)]
NEW = [{"quote": f"We count {i} doors and {i} stones.", "tags": ["door"]} for i in range(40)]
SETTINGS: dict[str, Any] = {
    "device": "cpu",
    "dtype": "float32",
    "learning_rate": 0.02,
    "lr_schedule": "constant",
    "verdict_texts": 0,
}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def eval_losses(run: Path) -> list[float]:
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [row["eval_loss"] for row in rows if "eval_loss" in row]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "adapter" / "adapter_model.safetensors")


def test_what_is_forgotten_is_measured_with_the_best_adapter(tiny: Path, tmp_path: Path) -> None:
    """The held-out rows are like the old run's and the training rows are not, so the best adapter is the one that the old
    run left, and has forgotten nothing; the last one has."""
    first, further = tmp_path / "first", tmp_path / "further"
    old, new = write(tmp_path / "old.jsonl", OLD), write(tmp_path / "new.jsonl", NEW)
    held_out = write(tmp_path / "held_out.jsonl", OLD[:8])
    before = florilegium.train(old, model=str(tiny), output=str(first), max_steps=30, **SETTINGS).figures
    figures = florilegium.train(
        new,
        held_out_file=str(held_out),
        start_from=str(first),
        output=str(further),
        max_steps=8,
        eval_every=4,
        **SETTINGS,
    ).figures
    losses = eval_losses(further)
    assert (figures["best_step"], figures["steps"]) == (0, 8) and losses[-1] > losses[0] + 0.5
    kept, started_from = weights(further), weights(first)
    assert kept.keys() == started_from.keys() and all(torch.equal(kept[name], started_from[name]) for name in kept)
    lost = figures["forgotten"]
    assert lost["run"] == str(first) and lost["rows"] == before["held_out_rows"]
    assert lost["loss_before"] == pytest.approx(before["eval_loss"], abs=1e-5)
    assert lost["loss_after"] == pytest.approx(lost["loss_before"], abs=1e-5)


def test_rows_longer_than_the_fused_layers_were_made_for_go_through_the_models_own() -> None:
    """Their attention takes a window that is wider than every row for none."""
    few, many = (PreviousRows("run", (Example([1] * size, [True] * size),)) for size in (8, 80))
    layers = FusedLayers(cast(LayerRunner, SimpleNamespace(longest=20)))
    trainer = cast(Trainer, Options(ForwardOptions(document_mask="positions", fused_layers=layers)))
    assert _for_rows(trainer, few) is trainer
    assert _for_rows(trainer, many).options == ForwardOptions(document_mask="positions")


@dataclass
class Options:
    """What of a trainer is asked."""

    options: ForwardOptions
