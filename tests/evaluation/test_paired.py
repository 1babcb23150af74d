"""Two runs on the same rows: the difference by hand, its interval against draws of its own, and no difference where there
is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from florilegium.cli.main import main
from florilegium.evaluation import paired_differences, sums_of_rows
from florilegium.evaluation.losses import Part, RowParts
from florilegium.evaluation.token_parts import PARTS
from florilegium.report import compare_runs, comparison_page, read_run
from tests.report.made_up import write_run

COUNT = 80


def side(nats: np.ndarray, rows: range | None = None, tokens: int = 10) -> dict[str, Any]:
    """Sums of rows whose words lost `nats`."""
    names = [f"row {i}" for i in rows or range(len(nats))]
    none = dict.fromkeys(PARTS, Part(0.0, 0, 0))
    parts = [none | {"quote_words": Part(float(x), tokens, 40), "tag_words": Part(0.0, 0, 0)} for x in nats]
    found = [RowParts(row["quote_words"], Part(1.0, 1, 0), row) for row in parts]
    written = [["sea", "home"] if i % 2 else ["sea"] for i in range(len(nats))]
    return sums_of_rows(names, found, written, [["sea"] if i else [] for i in range(len(nats))])


def losses(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(50, 15, COUNT)


def test_a_paired_difference_by_hand_and_its_interval_by_a_loop() -> None:
    one, change = losses(), np.random.default_rng(1).normal(-0.5, 1, COUNT)
    found = {d.name: d for d in paired_differences([(side(one), side(one + change))])}
    words = found["loss of the words"]
    assert words.first == pytest.approx(one.sum() / (10 * COUNT), abs=1e-4) and words.rows == COUNT
    assert words.change.value == pytest.approx(change.sum() / (10 * COUNT), abs=1e-4)
    chance, drawn = np.random.default_rng(7), []
    for _ in range(4000):  # a plain bootstrap, with draws of its own
        drawn.append(chance.choice(change, COUNT).sum() / (10 * COUNT))
    low, high = np.percentile(drawn, [2.5, 97.5])
    assert words.change.low == pytest.approx(low, abs=0.004) and words.change.high == pytest.approx(high, abs=0.004)
    assert words.is_seen and words.verdict("A", "B") == "B is better"
    # unpaired, the same difference drowns in what the rows differ by
    assert abs(words.change.value) < 1.96 * np.std(one) / 10 / np.sqrt(COUNT) * np.sqrt(2)
    assert found["bits per byte of the words"].first == pytest.approx(one.sum() / np.log(2) / (40 * COUNT), abs=1e-4)
    assert not found["tag micro F1"].is_seen and found["tag micro F1"].first == pytest.approx(
        2 * (COUNT - 1) / sum((2 if i % 2 else 1) + 1 for i in range(1, COUNT))
    )


def test_no_difference_is_seen_where_there_is_none() -> None:
    """Of 100 pairs of equal runs some 5 may be said to differ."""
    seen = 0
    for seed in range(100):
        chance = np.random.default_rng(seed)
        one = chance.normal(50, 15, COUNT)
        (words, *_) = paired_differences(
            [(side(one + chance.normal(0, 1, COUNT)), side(one + chance.normal(0, 1, COUNT)))]
        )
        seen += words.is_seen
    assert seen <= 12
    same = paired_differences([(side(losses()), side(losses()))])
    assert same and all(d.change.value == 0 and d.verdict("A", "B") == "no difference seen" for d in same)


def test_rows_are_matched_by_their_text_and_pooled_over_pairs() -> None:
    one = losses()
    late = range(20, 20 + COUNT)
    (words, *_) = paired_differences([(side(one), side(one[:COUNT] + 3, late))])
    assert words.rows == COUNT - 20
    assert words.change.value == pytest.approx((one[: COUNT - 20] + 3 - one[20:]).sum() / (10 * (COUNT - 20)), abs=1e-4)
    twice = paired_differences([(side(one), side(one + 1)), (side(one), side(one + 3))])[0]
    assert twice.rows == COUNT and twice.change.value == pytest.approx(0.2, abs=1e-4)
    assert not paired_differences([(side(one[:5]), side(one[:5]))]), "five rows say nothing"
    other = {d.name for d in paired_differences([(side(one), side(one, tokens=12))])}
    assert "loss of the words" not in other and "bits per byte of the words" in other, "another tokenizer"
    for bad in (None, {}, {"row": 3}, {"row": ["a"], "word_nats": ["x"]}, {"row": [1], "word_nats": [float("nan")]}):
        assert paired_differences([(bad, side(one))]) == []


def test_report_compares_two_runs_row_by_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, nats in (("a", losses()), ("b", losses() - 1), ("c", losses())):
        path = write_run(tmp_path / name) / "evaluation.json"
        evaluation = json.loads(path.read_text())
        path.write_text(json.dumps(evaluation | {"tuned": evaluation["tuned"] | {"by_row": side(nats)}}))
    records = [read_run(tmp_path / name) for name in "abc"]
    page = comparison_page(*records)
    assert "b minus a, paired on 80 rows" in page and "b is better" in page and "no difference seen" in page
    assert main(["report", "a", "b"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "loss of the words -0.1000 (-0.1000 to -0.1000) b is better" in printed
    (first, second) = compare_runs(*records).to_json()["paired"]  # type: ignore[misc]
    assert first["metrics"][0]["verdict"] == "b is better" and second["metrics"][0]["verdict"] == "no difference seen"
    write_run(tmp_path / "d")  # evaluated by an earlier version
    assert "d and a cannot be paired" in comparison_page(read_run(tmp_path / "a"), read_run(tmp_path / "d"))
    (tmp_path / "b" / "evaluation.json").unlink()
    assert "paired" not in comparison_page(read_run(tmp_path / "a"), read_run(tmp_path / "b"))
