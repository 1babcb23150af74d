"""The end of a run: the loss that is told is that of the last step, and a signal is heard while the verdict's texts are
written."""

from __future__ import annotations

import json
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import florilegium
from florilegium.errors import Interrupted
from florilegium.runs import finish
from florilegium.runs.recorder import NullView


@pytest.fixture
def quotes(tmp_path: Path) -> Path:
    path = tmp_path / "quotes.jsonl"
    rows = [{"quote": f"saying number {i} about the sea", "tags": ["sea", f"n{i % 3}"]} for i in range(24)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_run_resumed_at_its_last_step_is_evaluated_there(tiny: Path, quotes: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings: dict[str, Any] = {"model": str(tiny), "output": str(run), "verdict_texts": 0, "learning_rate": 0.05}

    class StopsAtThree(NullView):
        def step(self, metrics: Any, num_steps: int) -> None:
            if metrics.step == 3:
                signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted, match="step 3 is saved"):
        florilegium.train(quotes, max_steps=8, eval_every=8, view=StopsAtThree(), **settings)
    ended = florilegium.resume(run, max_steps=3)
    assert ended.figures["steps"] == 3
    losses = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines() if "eval_loss" in line]
    assert [row["step"] for row in losses] == [0, 3]
    assert ended.figures["eval_loss"] < ended.figures["eval_loss_before"]


def test_a_signal_is_heard_while_the_verdict_is_drawn(
    tiny: Path, quotes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, sent, draw = tmp_path / "run", [], finish.draw_verdict

    def with_a_signal(*given: Any) -> Any:
        def send() -> None:
            sent.append(time.monotonic())
            signal.raise_signal(signal.SIGTERM)

        threading.Timer(0.3, send).start()
        return draw(*given)

    monkeypatch.setattr(finish, "draw_verdict", with_a_signal)
    with pytest.raises(Interrupted, match=f"stopped by SIGTERM: step 2 is saved. Type: florilegium resume {run}"):
        florilegium.train(quotes, model=str(tiny), output=str(run), max_steps=2, verdict_texts=400)
    assert time.monotonic() - sent[0] < 3
    assert not (run / "adapter").exists()
    monkeypatch.setattr(finish, "draw_verdict", draw)
    assert florilegium.resume(run, verdict_texts=2).verdict is not None
