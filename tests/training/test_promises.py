"""What a run promises, each looked at where a break would show: the best adapter is the one saved, every step has its
learning rate, a seed draws its adapter, a step is the same however its quotes are held, dropout drops."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import get_scheduler

import florilegium
from florilegium.tokens import PackPlan, pack
from florilegium.training.step import take_step
from tests.training.test_training import QUOTES, bare_trainer, same, settings, weights


@pytest.fixture(scope="module")
def quotes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "quotes.jsonl"
    path.write_text("".join(json.dumps(q) + "\n" for q in QUOTES))
    return path


def steps_of(run: Path) -> list[dict]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "loss" in row]


def test_the_adapter_saved_is_the_best_one(tiny: Path, quotes: Path, tmp_path: Path) -> None:
    """A rate that diverges: the last adapter is far from the best."""
    more = {"learning_rate": 3.0, "patience": 2, "evaluate_every": 1, "epochs": 6.0, "clip": 0.0, "save_every": 1}
    run = florilegium.train(quotes, **settings(tiny, tmp_path / "run", **more))
    newest = max((run.directory / "checkpoints").iterdir())
    held = load_file(newest / "adapter.safetensors")
    best = {name.removeprefix("best."): tensor for name, tensor in held.items() if name.startswith("best.")}
    last = {name: tensor for name, tensor in held.items() if not name.startswith("best.")}
    assert run.figures["best_step"] < run.figures["steps"] and best.keys() == last.keys()
    assert same(weights(run.directory), best) and not same(weights(run.directory), last)


@pytest.mark.parametrize("name", ["cosine", "linear", "constant"])
def test_each_step_has_the_rate_of_transformers_schedule(tiny: Path, quotes: Path, tmp_path: Path, name: str) -> None:
    more = {"lr_schedule": name, "learning_rate": 1e-3, "max_steps": 8, "warmup_ratio": 0.25}
    run = florilegium.train(quotes, **settings(tiny, tmp_path / "run", **more))
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-3)
    kind = "constant_with_warmup" if name == "constant" else name
    schedule = get_scheduler(kind, optimizer, num_warmup_steps=2, num_training_steps=8)
    wanted = []
    for _ in range(8):
        wanted.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    rates = [row["learning_rate"] for row in steps_of(run.directory)]
    assert rates == pytest.approx(wanted, rel=1e-6, abs=1e-12) and len(set(rates)) > 2


def test_another_seed_draws_another_adapter(tiny: Path, quotes: Path, tmp_path: Path) -> None:
    """After one step of next to no length A is as it was drawn: the order of the rows does not show in it."""
    drawn = []
    for number, seed in enumerate((0, 0, 1)):
        more = {"learning_rate": 1e-12, "max_steps": 1, "seed": seed, "warmup_ratio": 0.0}
        run = florilegium.train(quotes, **settings(tiny, tmp_path / str(number), **more))
        drawn.append(torch.cat([t.flatten() for n, t in sorted(weights(run.directory).items()) if "lora_A" in n]))
    assert torch.equal(drawn[0], drawn[1])
    assert torch.cosine_similarity(drawn[0], drawn[2], dim=0).abs() < 0.2


def test_a_step_of_eight_is_eight_of_one(tiny: Path, quotes: Path, tmp_path: Path) -> None:
    """Through `take_step`, which divides: rows of unlike length must count by their tokens, not by their batches."""
    finished = florilegium.train(quotes, **settings(tiny, tmp_path / "run", max_steps=1))
    unlike = tmp_path / "unlike.jsonl"
    rows = [{"quote": "Be kind" + " to the sea" * i, "tags": ["hope"]} for i in range(1, 9)]
    unlike.write_text("".join(json.dumps(row) + "\n" for row in rows))
    measured = []
    for plan in (PackPlan(256, 8, 100_000), PackPlan(8, 1, 8)):
        trainer, examples = bare_trainer(finished, unlike)
        trainer.plan = plan
        batches = pack(examples, plan)
        result = take_step(trainer, batches).result()
        measured.append((len(batches), result.loss, result.grad_norm))
    assert measured[0][0] == 1 and measured[1][0] > 4
    assert measured[0][1:] == pytest.approx(measured[1][1:], rel=1e-5)


def test_dropout_drops(tiny: Path, quotes: Path, tmp_path: Path) -> None:
    learned = []
    for number, dropout in enumerate((0.0, 0.5, 0.5)):
        more = {"lora_dropout": dropout, "max_steps": 3, "learning_rate": 1e-3}
        run = florilegium.train(quotes, **settings(tiny, tmp_path / str(number), **more))
        learned.append(weights(run.directory))
    assert same(learned[1], learned[2]) and not same(learned[0], learned[1])
