"""What was forgotten: the next word of four against a plain loop over stock logits, and what the interval can see."""

from __future__ import annotations

import contextlib
import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch

import florilegium
from florilegium.config import SamplingSettings
from florilegium.evaluation import (
    GENERAL,
    cloze_items,
    cloze_metrics,
    forgetting,
    general_parts,
    read_general,
    right_choices,
)
from florilegium.evaluation.general import GOAL, windows_to_see
from florilegium.evaluation.losses import Part
from florilegium.evaluation.table import table
from florilegium.generation.tuned import Tuned
from florilegium.model import Base, LoadedModel, load_base
from florilegium.runs.evaluate import read_eval_data
from florilegium.runs.evaluator import Evaluator
from florilegium.runs.recorder import NullView
from florilegium.runs.time_left import TimeLeft
from florilegium.tokens import Example
from tests.evaluation.test_losses import stock_losses


@pytest.fixture(scope="module")
def base(tiny: Path) -> Base:
    return load_base(str(tiny), bits=32, device=torch.device("cpu"))


def test_items_are_words_of_the_text_the_right_one_first() -> None:
    paragraphs = read_general(GENERAL)
    text = " ".join(" ".join(paragraphs).split())
    items = cloze_items(paragraphs)
    assert len(items) > 35 and items == cloze_items(paragraphs) != cloze_items(paragraphs, seed=1)
    for item in items:
        right, *wrong = item.words
        assert f"{item.context} {right}" in text and len(set(item.words)) == 4
        assert all(word in text and word.islower() and abs(len(word) - len(right)) <= 3 for word in wrong)
        assert 8 <= len(item.context.split()) <= 16
    assert len(cloze_items(paragraphs, most=10)) == 10 and cloze_items(["too short a text"]) == []


def test_choices_are_those_of_a_plain_loop_over_stock_logits(base: Base) -> None:
    items = cloze_items(read_general(GENERAL), most=24)
    wanted = []
    for item in items:
        start = len(base.tokenizer(item.context)["input_ids"])
        nats = []
        for word in item.words:
            ids = base.tokenizer(f"{item.context} {word}")["input_ids"]
            assert ids[:start] == base.tokenizer(item.context)["input_ids"]
            nats.append(float(stock_losses(base, ids)[start - 1 :].sum()))
        wanted.append(nats[0] < min(nats[1:]))
    assert right_choices(LoadedModel(base, base.model), items) == wanted
    assert any(wanted) and not all(wanted)


def test_a_model_that_knows_the_text_chooses_right_and_one_that_forgot_it_by_chance(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    paragraphs = read_general(GENERAL)
    items, text = cloze_items(paragraphs), " ".join(" ".join(paragraphs).split())

    def knowing(loaded: LoadedModel, examples: list[Example], batch_tokens: int = 4096) -> list[np.ndarray]:
        texts = [base.tokenizer.decode(example.token_ids) for example in examples]
        return [np.full(len(e.token_ids) - 1, 1.0 if t in text else 3.0) for e, t in zip(examples, texts, strict=True)]

    monkeypatch.setattr("florilegium.evaluation.cloze.example_losses", knowing)
    before = right_choices(LoadedModel(base, base.model), items)
    after = [i % 4 == 0 for i in range(len(items))]
    found = cloze_metrics(before, after)
    assert found is not None and found.before and found.after and found.change
    assert found.before.value > 0.95 and found.after.value == pytest.approx(0.25, abs=0.02)
    assert found.change.high < -0.6 and found.change.value == pytest.approx(found.after.value - found.before.value)
    same = cloze_metrics(before, before)
    assert same is not None and same.change is not None and (same.change.low, same.change.high) == (0, 0)
    assert cloze_metrics(before[:5], after[:5]) is None


def test_the_interval_says_what_it_sees_and_what_would_see_more() -> None:
    chance = np.random.default_rng(0)

    def windows(count: int, change: float) -> tuple[list[Part], list[Part]]:
        each = chance.normal(5, 1, count), chance.normal(change, 0.2, count)
        before = [Part(200 * x, 200, 900) for x in each[0]]
        return before, [Part(200 * (x + y), 200, 900) for x, y in zip(*each, strict=True)]

    few = forgetting(*windows(14, 0.05))
    assert few.change and few.sees == pytest.approx((few.change.high - few.change.low) / 2)
    assert few.needed_tokens == math.ceil(14 * 200 * (few.sees / GOAL) ** 2)
    assert "--general FILE" in few.sentence and "2,800 tokens" in few.sentence
    enough = forgetting(*windows(2 * few.needed_tokens // 200, 0.05))
    assert enough.sees is not None and enough.sees < GOAL and "--general" not in enough.sentence
    assert enough.change and enough.change.low > 0, "0.05 nats are seen"
    assert windows_to_see(enough) == enough.windows
    assert few.sees is not None and windows_to_see(few) == math.ceil(1.2 * 14 * (few.sees / GOAL) ** 2)
    alone = forgetting(*windows(1, 0.05))
    assert alone.sees is None and "too little general text" in alone.sentence


def test_the_table_shows_both() -> None:
    figure = {"value": 0.5, "low": 0.4, "high": 0.6}
    side = {"loss": figure}
    words = {"before": figure, "after": figure, "change": figure, "items": 99, "chance": 0.25}
    (lines,) = table({"forgetting": {"before": side, "after": side, "change": figure, "cloze": words}}).values()
    assert [cells.line.name for cells in lines] == ["loss per token", "next word of four, right"]
    assert "25.0% by chance, 99 words" in lines[1].control


def test_of_a_long_text_as_many_windows_are_measured_as_see_the_goal(tmp_path: Path, tiny: Path) -> None:
    rows = "".join(json.dumps({"quote": f"Be kind to the sea, number {i}.", "tags": ["sea"]}) + "\n" for i in range(40))
    (tmp_path / "quotes.jsonl").write_text(rows)
    run = florilegium.train(
        str(tmp_path / "quotes.jsonl"), model=str(tiny), max_steps=3, batch_size=4, split_by="random", lora_rank=4,
        learning_rate=0.05, held_out=0.2, verdict_texts=0, bits=32, output=str(tmp_path / "run"),
    ).directory  # fmt: skip
    chance = random.Random(0)
    lines = [
        " ".join(chance.choices(["sea", "kind", "time", "river", "hope", "boat", "door", "home"], k=9))
        for _ in range(1500)
    ]
    tuned = florilegium.load(run)
    evaluator = Evaluator(tuned, read_eval_data(run), SamplingSettings(), 1, TimeLeft(NullView(), []))
    found, short = evaluator.forgetting(lines), evaluator.forgetting(lines[:40])
    assert short.windows == 40 and short.sees is not None
    first = forgetting(*(general_parts_of(tuned, lines, on) for on in (False, True)))
    assert first.windows == 320 and first.sees is not None and first.sees > GOAL, "else the test says nothing"
    assert found.windows == min(1500, windows_to_see(first)) > 320 and found.sees is not None
    assert found.sees < first.sees


def general_parts_of(tuned: Tuned, lines: list[str], adapter: bool) -> list[Part]:
    with contextlib.nullcontext() if adapter else tuned.adapter_off():
        return general_parts(tuned.loaded, lines)
