"""Memory running out: in a step, for good, in a save; and what a long run and a save take of it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from florilegium.training import newest_valid
from tests.torture.conftest import different_bits, train_arguments, weights
from tests.warm import Warm


def losses(run: Path) -> list[tuple[int, float, int]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"], row["tokens"]) for row in rows if "loss" in row]


def test_steps_down(
    warm: Warm,
    tiny: Path,
    quotes: Path,
    tmp_path: Path,
    amount: Callable[[int, int], int],
    figure: Callable[[str, str], None],
) -> None:
    more = ["--dropout", "0.3"]  # drawn by rows: a smaller piece drops the same
    assert warm.run(train_arguments(tiny, quotes, tmp_path / "right", *more), cwd=tmp_path).code == 0
    right, worst = losses(tmp_path / "right"), 0.0
    kinds = ("cuda", "cpu", "python")
    steps = [1, 5] if not amount(0, 1) else list(range(1, 12))
    for number, step in enumerate(steps):
        run = tmp_path / f"run-{step}"
        options = {"step": step, "tokens": 70, "kind": kinds[number % 3]}
        child = warm.run(
            train_arguments(tiny, quotes, run, *more), cwd=tmp_path, before=("let_memory_run_out", options)
        )
        assert child.code == 0, child.err
        mine = losses(run)
        assert [(s, t) for s, _, t in mine] == [(s, t) for s, _, t in right]
        worst = max(worst, max(abs(a - b) / b for (_, a, _), (_, b, _) in zip(mine, right, strict=True)))
        (event,) = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
        assert re.match(
            r"out of memory: retrying this step with micro-batches of [\d,]+ tokens \(results are unchanged\)",
            event["event"],
        )
        assert "out of memory" in child.err
    assert worst < 1e-6
    host = _host_limit(warm, tiny, tmp_path, (8,) if not amount(0, 1) else (8, 64))
    kept = _a_save_that_fails(warm, tiny, quotes, tmp_path)
    text = f"{len(steps)} steps: same rows, losses within {worst:.0e}, the step down logged; host limit: {host}"
    figure("memory", f"{text}; a save without memory keeps step {kept}, exit 5")


def _host_limit(warm: Warm, tiny: Path, tmp_path: Path, limits: Sequence[int]) -> str:
    """A real limit on the process's address space, under rows that take hundreds of megabytes at once."""
    words = ("sea", "boat", "home", "river", "time")
    texts = [" ".join(f"{word}{i + n}" for word in words for n in range(20)) for i in range(45)]
    (tmp_path / "long.jsonl").write_text("".join(json.dumps({"quote": text, "tags": ["a"]}) + "\n" for text in texts))
    arguments = [
        "--batch-rows",
        "40",
        "--batch-tokens",
        "30000",
        "--fast",
        "off",
        "--max-steps",
        "2",
        "--save-every",
        "1",
    ]
    outcome = []
    for megabytes in limits:
        run = tmp_path / f"host-{megabytes}"
        before = ("limit_memory", {"megabytes": megabytes})
        child = warm.run(train_arguments(tiny, tmp_path / "long.jsonl", run, *arguments), cwd=tmp_path, before=before)
        assert child.code in (0, 5) and "Traceback" not in child.err, child.err
        assert "out of memory" in child.err or child.code == 5 or megabytes > 8
        stepped = child.err.count("out of memory: retrying this step")
        outcome.append(
            f"with {megabytes} MB more {'finished' if child.code == 0 else 'exit 5'} after {stepped} steps down"
        )
    return ", ".join(outcome)


def _a_save_that_fails(warm: Warm, tiny: Path, quotes: Path, tmp_path: Path) -> int:
    run = tmp_path / "no-save"
    child = warm.run(train_arguments(tiny, quotes, run), cwd=tmp_path, before=("no_memory_to_save", {"number": 3}))
    assert child.code == 5 and "memory ran out while saving" in child.last_line and "Traceback" not in child.err, (
        child.err
    )
    newest, skipped = newest_valid(run / "checkpoints")
    assert newest is not None and newest.name == "step-00000004" and not skipped
    assert warm.run(["resume", run], cwd=tmp_path).code == 0
    return 4


def test_going_on_after_a_step_down_holds_as_little(warm: Warm, tiny: Path, quotes: Path, tmp_path: Path) -> None:
    """A resumed run does not run out of memory once more to learn what the checkpoint knows, and takes the same
    bits."""
    options = {"step": 1, "tokens": 70, "kind": "cuda"}
    whole = warm.run(
        train_arguments(tiny, quotes, tmp_path / "whole"), cwd=tmp_path, before=("let_memory_run_out", options)
    )
    part = warm.run(
        train_arguments(tiny, quotes, tmp_path / "part"), cwd=tmp_path, before=("no_memory_to_save", {"number": 5})
    )
    assert whole.code == 0 and part.code == 5
    stopped = tmp_path / "stopped"
    import shutil

    shutil.copytree(tmp_path / "whole", stopped)
    shutil.rmtree(stopped / "adapter")
    shutil.rmtree(stopped / "checkpoints" / "step-00000012")
    (stopped / "events.jsonl").unlink()
    resumed = warm.run(["resume", stopped], cwd=tmp_path, before=("let_memory_run_out", options))
    assert resumed.code == 0 and "out of memory" not in (stopped / "events.jsonl").read_text(), resumed.err
    assert different_bits(weights(stopped), weights(tmp_path / "whole")) == 0


def test_five_thousand_steps(
    warm: Warm,
    tiny: Path,
    quotes: Path,
    tmp_path: Path,
    amount: Callable[[int, int], int],
    figure: Callable[[str, str], None],
) -> None:
    steps = amount(400, 5_000)
    log = tmp_path / "memory.jsonl"
    more = ["--save-every", str(steps // 20), "--evaluate-every", str(steps // 10)]
    child = warm.run(
        train_arguments(tiny, quotes, tmp_path / "run", *more, steps=steps),
        cwd=tmp_path,
        before=("watch_memory", {"log": str(log)}),
        seconds=900,
    )
    assert child.code == 0, child.err
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    settled = rows[len(rows) // 5 :]
    slope = _slope([row["step"] for row in settled], [row["bytes"] for row in settled])
    handles, threads = {row["handles"] for row in settled}, {row["threads"] for row in settled}
    assert len(handles) == 1 and len(threads) == 1, (handles, threads)
    if steps >= 5_000:
        assert slope < 1000, slope
    figure(
        "long run",
        f"{steps:,} steps: {slope:.0f} bytes a step, {handles.pop()} file descriptors and {threads.pop()} threads throughout",
    )


def _slope(xs: list[float], ys: list[float]) -> float:
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    return math.fsum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / math.fsum(
        (x - mean_x) ** 2 for x in xs
    )


def test_slope_is_bytes_a_step() -> None:
    assert _slope([0, 1, 2, 3], [5, 1005, 2005, 3005]) == pytest.approx(1000)
