"""Rows that choose the best step, and rows that are reported: apart where there are enough, and as before in a run of
before."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import florilegium
from florilegium.config import make_config, read_config
from florilegium.data import Quote, make_split, read_rows_of, split_by_config
from florilegium.data.split import FEWEST_TO_PART, part_held_out
from florilegium.model import load_base
from florilegium.runs.evaluate import read_eval_data
from florilegium.runs.resume import resume
from florilegium.runs.selection import selection_of
from tests.evaluation.test_losses import stock_losses


def texts(rows: Sequence[Quote]) -> list[str]:
    return [str(row["quote"]) for row in rows]


def quotes(count: int) -> list[Quote]:
    return [{"quote": f"Row {i} says {i * 7919 % 1000} kind words {i % 13}.", "tags": ["sea"]} for i in range(count)]


def test_held_out_rows_are_parted_and_training_rows_are_not_touched() -> None:
    rows = quotes(400)
    whole = make_split(rows, 0.2, 3)
    split = part_held_out(whole, texts(rows), 0.3, 3)
    assert split.training == whole.training and split.held_out == whole.held_out
    assert set(split.validation) | set(split.test) == set(whole.held_out)
    assert not set(split.validation) & set(split.test) and 0.15 < len(split.validation) / len(whole.held_out) < 0.45
    fewer = part_held_out(make_split(rows[:300], 0.2, 3), texts(rows[:300]), 0.3, 3)
    assert set(fewer.validation) == {i for i in split.validation if i < 300}, "a row keeps its side as the file grows"
    assert part_held_out(make_split(rows, 0.2, 4), texts(rows), 0.3, 4).validation != split.validation
    assert not part_held_out(whole, texts(rows), 0.0, 3).validation


def test_too_few_rows_are_not_parted() -> None:
    rows = quotes(FEWEST_TO_PART * 10)
    whole = make_split(rows, 0.05, 0)
    assert 0 < len(whole.held_out) < FEWEST_TO_PART
    split = part_held_out(whole, texts(rows), 0.3, 0)
    assert not split.validation and split.test == whole.held_out


def test_near_duplicates_and_authors_stay_together() -> None:
    rows = quotes(300)
    held = list(range(0, 200))
    split = make_split(rows, 0.0)
    pairs = [(i, i + 1) for i in range(0, 200, 2)]
    parted = part_held_out(type(split)(list(range(200, 300)), held, [], pairs), texts(rows), 0.3)
    chosen = set(parted.validation)
    assert 20 < len(chosen) < 120 and all((i in chosen) == (i + 1 in chosen) for i in range(0, 200, 2))
    authors = [f"Ann {i % 17}" for i in range(300)]
    parted = part_held_out(type(split)(list(range(200, 300)), held, [], []), texts(rows), 0.3, 0, authors)
    sides = [{authors[i] for i in side} for side in (parted.validation, parted.test)]
    assert all(sides) and not sides[0] & sides[1]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "quotes.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in quotes(160)))
    return path


def train(file: Path, tiny: Path, output: Path, **settings: Any) -> Path:
    wanted = {"max_steps": 6, "batch_size": 4, "eval_every": 2, "held_out": 0.25, "split_by": "random", "lora_rank": 4}
    wanted |= {"bits": 32, "verdict_texts": 0, "learning_rate": 0.05, "output": str(output)}
    return florilegium.train(str(file), model=str(tiny), **{**wanted, **settings}).directory


@pytest.fixture(scope="module")
def run(file: Path, tiny: Path) -> Path:
    return train(file, tiny, file.parent / "run")


def test_the_best_step_is_chosen_on_validation_rows_and_reported_on_the_others(run: Path, tiny: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    evaluations = {row["step"]: row for row in metrics if "eval_loss" in row}
    assert manifest["best_step"] == min(evaluations, key=lambda step: evaluations[step]["validation_loss"])
    best = evaluations[manifest["best_step"]]
    assert manifest["eval_loss"] == best["eval_loss"] and manifest["validation_loss"] == best["validation_loss"]
    assert manifest["eval_loss_before"] == evaluations[0]["eval_loss"] != evaluations[0]["validation_loss"]
    material = read_eval_data(run)
    config = make_config(read_config(run / "config.yaml"))
    rows = read_rows_of(config)
    split = split_by_config(config, rows)
    assert [rows.quotes[i] for i in split.test] == material.held_out
    assert manifest["held_out_rows"] == len(split.held_out) == len(split.test) + manifest["validation_rows"]
    # the base, by a plain loop over stock logits
    base = load_base(str(tiny), bits=32, device=torch.device("cpu"))
    for numbers, key in ((split.test, "eval_loss"), (split.validation, "validation_loss")):
        nats, tokens = 0.0, 0
        for i in numbers:
            ids = base.tokenizer(rows.template.render(rows.quotes[i]))["input_ids"]
            losses = stock_losses(base, [*ids, base.tokenizer.eos_token_id])
            nats, tokens = nats + float(losses.sum()), tokens + len(losses)
        assert evaluations[0][key] == pytest.approx(nats / tokens, abs=1e-4), key


def test_what_is_trained_does_not_depend_on_it(run: Path, file: Path, tiny: Path, tmp_path: Path) -> None:
    other = train(file, tiny, tmp_path / "run", validation=0.0)
    manifest = json.loads((other / "manifest.json").read_text())
    assert manifest["validation_rows"] == 0 and manifest["validation_loss"] is None
    assert len(read_eval_data(other).held_out) == manifest["held_out_rows"]
    last = "checkpoints/step-00000006/adapter.safetensors"
    mine, theirs = (
        {k: v for k, v in load_file(folder / last).items() if not k.startswith("best.")} for folder in (run, other)
    )
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_a_run_of_before_is_evaluated_on_all_its_held_out_rows_and_resumed_so(run: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(run, old)
    config = old / "config.yaml"
    lines = config.read_text().splitlines(True)
    config.write_text("".join(line for line in lines if not line.startswith("validation:")))
    for manifest in old.glob("checkpoints/*/manifest.json"):
        facts = json.loads(manifest.read_text())
        del facts["run"]["settings"]["validation"]
        manifest.write_text(json.dumps(facts))
    rows = json.loads((run / "manifest.json").read_text())["held_out_rows"]
    assert len(read_eval_data(old).held_out) == rows > len(read_eval_data(run).held_out)
    shutil.rmtree(old / "adapter")
    with pytest.raises(florilegium.UsageError, match="--validation cannot change"):
        resume(old, validation=0.3)
    trained = resume(old, max_steps=8)
    assert trained.figures["validation_rows"] == 0 and trained.figures["validation_loss"] is None
    assert len(read_eval_data(old).held_out) == rows


def test_a_resumed_run_reports_the_same(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    before = json.loads((copy / "manifest.json").read_text())
    shutil.rmtree(copy / "adapter")
    found = resume(copy).figures
    for key in ("eval_loss_before", "eval_loss", "validation_loss", "best_step"):
        assert found[key] == before[key], key


def test_the_bias_of_rows_that_choose_and_are_reported_is_bounded() -> None:
    """Against draws: the lowest of K losses with correlated errors is on average no further off than the bound."""
    chance = np.random.default_rng(1)
    for count, shared in ((2, 0.0), (5, 0.0), (5, 0.9), (40, 0.5)):
        noise = math.sqrt(shared) * chance.normal(size=(4000, 1)) + math.sqrt(1 - shared) * chance.normal(
            size=(4000, count)
        )
        losses = 3 + 0.1 * noise
        figure = {"value": 3.0, "low": 3 - 1.959964 * 0.1, "high": 3 + 1.959964 * 0.1}
        found = selection_of([{"eval_loss": 3.0}] * count, 0, 50, figure)
        assert 3 - float(losses.min(1).mean()) <= found.bound <= 0.1 * math.sqrt(2 * math.log(count)) + 1e-9
    found = selection_of([{"eval_loss": x} for x in (6.0, 3.5, 3.6)], 0, 50, figure)
    assert found.lowered_by == pytest.approx(0.1) and "0.100 below the last step's" in str(found)
    assert "20 validation rows" in str(selection_of([{"eval_loss": 6.0}], 20, 50, figure))
