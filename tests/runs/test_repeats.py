"""A run trained again with other seeds: what differs between runs is shown, and what is finished is kept."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

import florilegium
from florilegium.cli.tables import print_evaluation
from florilegium.errors import UsageError
from florilegium.evaluation.between_runs import spread
from florilegium.report import read_run
from florilegium.report.page import run_page
from florilegium.runs.evaluate import evaluate
from florilegium.runs.recorder import NullView
from tests.tiny import PAGES


def test_a_mean_over_runs_has_students_interval() -> None:
    found = spread("loss", ".3f", [3.0, 3.2, 3.4])
    assert found.mean.value == pytest.approx(3.2) and found.deviation == pytest.approx(0.2)
    # 4.303 * 0.2 / sqrt(3), worked out by hand
    assert found.mean.high - 3.2 == pytest.approx(0.49687, abs=1e-4) and 3.2 - found.mean.low == pytest.approx(
        0.49687, abs=1e-4
    )


class Lines(NullView):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def test_evaluate_repeats(tmp_path: Path, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"quote": f"Be kind to the {w} number {i}.", "tags": [w]} for i in range(20) for w in ("sea", "home")]
    (tmp_path / "quotes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = florilegium.train(
        str(tmp_path / "quotes.jsonl"), model=str(tiny), max_steps=2, batch_size=4, split_by="random", lora_rank=4,
        held_out=0.3, verdict_texts=0, seed=5, output=str(tmp_path / "run"), learning_rate=0.05,
    ).directory  # fmt: skip
    report = evaluate(run, generations=2, general=PAGES, repeats=2)
    again = [json.loads((run / "repeats" / f"seed-{seed}" / "evaluation.json").read_text()) for seed in (6, 7)]
    values = [one["tuned"]["parts"]["words"]["loss"]["value"] for one in (report, *again)]
    assert len(set(values)) == 3, "other seeds are other runs"
    assert report["repeats"]["seeds"] == [5, 6, 7]
    metrics = {one["name"]: one for one in report["repeats"]["metrics"]}  # type: ignore[attr-defined]
    words = metrics["loss of the words"]
    assert list(words["values"]) == values and words["deviation"] == pytest.approx(statistics.stdev(values))
    configs = [(run / "repeats" / f"seed-{seed}" / "config.yaml").read_text() for seed in (6, 7)]
    assert all("lora_rank: 4" in config and "max_steps: 2" in config for config in configs)
    print_evaluation(report, full=True)
    assert "Over 3 runs with other seeds" in capsys.readouterr().out
    assert "Over runs with other seeds" in run_page(read_run(run))
    view = Lines()
    made = (run / "repeats" / "seed-6" / "manifest.json").stat().st_mtime_ns
    second = evaluate(run, generations=2, general=PAGES, repeats=2, view=view)
    assert (
        second["repeats"] == report["repeats"]
        and (run / "repeats" / "seed-6" / "manifest.json").stat().st_mtime_ns == made
    )
    other = evaluate(
        run, generations=3, general=PAGES, repeats=1
    )  # measured otherwise: not mixed with what was measured before
    seed_6 = json.loads((run / "repeats" / "seed-6" / "evaluation.json").read_text())
    assert other["repeats"]["seeds"] == [5, 6] and seed_6["generations"] == 3  # type: ignore[index]
    assert (run / "repeats" / "seed-6" / "manifest.json").stat().st_mtime_ns == made
    with pytest.raises(UsageError, match="--repeats is below 0"):
        evaluate(run, repeats=-1)
