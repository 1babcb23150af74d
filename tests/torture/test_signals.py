"""Signals: in data preparation, a step, an evaluation, a save. The work is saved within a step, and goes on to the same
bits."""

from __future__ import annotations

import json
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from florilegium.training import newest_valid
from tests.torture.conftest import different_bits, train_arguments, weights
from tests.torture.faults import STAGES
from tests.warm import Child, Warm

SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


def wait_for_stage(child: Child, marks: Path, stage: int, times: int) -> None:
    """Returns when the stage has begun for the `times`th time."""
    deadline = time.monotonic() + 60
    while marks.read_bytes()[stage] < times:
        assert child.poll() is None and time.monotonic() < deadline, (STAGES[stage - 1], times, child.err)
        time.sleep(0.001)


def test_signals_at_every_stage(
    warm: Warm, tiny: Path, quotes: Path, reference: Callable[..., Path], tmp_path: Path, amount: Callable[[int, int], int],
    figure: Callable[[str, str], None],
) -> None:  # fmt: skip
    draw, marks = random.Random(5), tmp_path / "marks"
    hit: Counter[str] = Counter()
    slowest, late = 0.0, 0
    count = amount(4, 50)
    for number in range(count):
        stage, sent = number % 4 + 1, list(SIGNALS)[number % 3]
        marks.write_bytes(b"\0" * 4096)
        run = tmp_path / f"run-{number}"
        before = ("mark_stages", {"marks": str(marks), "seconds": 0.06})
        child = warm.start(train_arguments(tiny, quotes, run), cwd=tmp_path, before=before)
        wait_for_stage(
            child, marks, stage, {1: 1, 2: draw.randint(1, 8), 3: draw.randint(1, 2), 4: draw.randint(1, 4)}[stage]
        )
        time.sleep(draw.uniform(0, 0.06))
        began = time.monotonic()
        child.send(sent)
        code = child.wait()
        if code == 0:  # it came when nothing was left to stop: the adapter was being written
            assert different_bits(weights(run), weights(reference())) == 0
            hit["the end"] += 1
            continue
        slowest = max(slowest, time.monotonic() - began)
        assert (
            code == SIGNALS[sent] and f"stopped by {sent.name}" in child.last_line and "Traceback" not in child.err
        ), child.err
        assert child.left_behind() == []
        hit[STAGES[stage - 1]] += 1
        if not (run / "config.yaml").exists():
            assert stage == 1 and "nothing was trained yet" in child.last_line and not run.exists()
            continue
        saved = re.search(r"step (\d+) is saved", child.last_line)
        assert saved or stage == 1, child.last_line
        if saved:
            newest, skipped = newest_valid(run / "checkpoints")
            assert newest is not None and int(newest.name[5:]) == int(saved[1]) and not skipped
            metrics = run / "metrics.jsonl"
            logged = (
                re.findall(r'"step": (\d+)', metrics.read_text()) if metrics.exists() else []
            )  # not before the first
            late = max(late, max(map(int, logged), default=0) - int(saved[1]))
        resumed = warm.run(["resume", run], cwd=tmp_path)
        assert resumed.code == 0 and different_bits(weights(run), weights(reference())) == 0, resumed.err
    assert late == 0 and len(hit.keys() - {"the end"}) == 4 and hit["the end"] < count // 4 + 1
    where = ", ".join(f"{n} in {stage}" for stage, n in hit.items())
    text = f"{count} signals ({where}): all saved within the step, {slowest:.2f} s at most"
    figure("signals", f"{text}, 0 orphans, same bits; a second Ctrl-C ends at once")


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("what", "number"),
    [
        pytest.param("evaluation", 1, marks=SLOW),
        ("evaluation", 3),
        ("samples", 1),
        pytest.param("samples", 2, marks=SLOW),
    ],
)
def test_a_signal_ends_an_evaluation_that_would_take_for_ever(
    warm: Warm, tiny: Path, quotes: Path, reference: Callable[..., Path], tmp_path: Path, what: str, number: int
) -> None:
    """It is saved as the steps before it are, and evaluated when it is resumed: once, to the same adapter."""
    run, mark, sent = tmp_path / "run", tmp_path / "mark", [signal.SIGTERM, signal.SIGINT][number % 2]
    before = ("never_finish", {"what": what, "number": number, "mark": str(mark)})
    child = warm.start(train_arguments(tiny, quotes, run), cwd=tmp_path, before=before)
    while not mark.exists():
        assert child.poll() is None, child.err
        time.sleep(0.005)
    child.send(sent)
    assert child.wait() == SIGNALS[sent] and f"stopped by {sent.name}: step " in child.last_line, child.err
    assert "Type: florilegium resume" in child.last_line and "Traceback" not in child.err
    resumed = warm.run(["resume", run], cwd=tmp_path)
    assert resumed.code == 0 and different_bits(weights(run), weights(reference())) == 0, resumed.err
    for name in ("metrics.jsonl", "samples.jsonl"):
        assert steps_of(run / name) == steps_of(reference() / name)


def steps_of(path: Path) -> list[tuple[int, bool]]:
    """The step of each line, and whether it is an evaluation's."""
    rows = map(json.loads, path.read_text().splitlines())
    return [(row["step"], "eval_loss" in row) for row in rows]


def test_a_second_ctrl_c_ends_at_once_and_what_is_on_disk_is_whole(
    warm: Warm, tiny: Path, quotes: Path, reference: Callable[..., Path], tmp_path: Path
) -> None:
    marks = tmp_path / "marks"
    marks.write_bytes(b"\0" * 4096)
    before = ("slow_saves", {"seconds": 0.1, "marks": str(marks)})
    child = warm.start(train_arguments(tiny, quotes, tmp_path / "run"), cwd=tmp_path, before=before)
    while not marks.read_bytes()[0]:
        assert child.poll() is None
        time.sleep(0.005)
    child.send(signal.SIGINT)
    time.sleep(0.3)
    assert child.poll() is None  # it saves
    began = time.monotonic()
    child.send(signal.SIGINT)
    assert child.wait() == -signal.SIGINT and time.monotonic() - began < 0.5
    resumed = warm.run(["resume", tmp_path / "run"], cwd=tmp_path)
    assert resumed.code == 0 and different_bits(weights(tmp_path / "run"), weights(reference())) == 0


def test_sigterm_twice_and_sighup_behind_it_still_save(warm: Warm, tiny: Path, quotes: Path, tmp_path: Path) -> None:
    """As `timeout` and systemd send them."""
    marks = tmp_path / "marks"
    marks.write_bytes(b"\0" * 4096)
    before = ("mark_stages", {"marks": str(marks), "seconds": 0.2})
    child = warm.start(train_arguments(tiny, quotes, tmp_path / "run"), cwd=tmp_path, before=before)
    wait_for_stage(child, marks, 2, 3)
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGHUP):
        child.send(number)
        time.sleep(0.02)
    assert child.wait() == 143 and "is saved" in child.last_line, child.err
