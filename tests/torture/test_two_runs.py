"""Two processes that want one directory: one trains, the other is told so; a lock that was left is none."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.torture.conftest import train_arguments
from tests.warm import Warm


def test_two_runs_into_one_directory(
    warm: Warm,
    tiny: Path,
    quotes: Path,
    tmp_path: Path,
    amount: Callable[[int, int], int],
    figure: Callable[[str, str], None],
) -> None:
    marks = tmp_path / "marks"
    marks.write_bytes(b"\0" * 4096)
    tries = refused = 0
    for number in range(amount(1, 10)):
        run = tmp_path / f"run-{number}"
        slow = ("mark_stages", {"marks": str(marks), "seconds": 0.2})
        first = warm.start(train_arguments(tiny, quotes, run), cwd=tmp_path, before=slow)
        while not (run / "metrics.jsonl").exists():
            assert first.poll() is None
            time.sleep(0.01)
        for arguments in (
            train_arguments(tiny, quotes, run),
            train_arguments(tiny, quotes, run, "--force"),
            ["resume", run],
        ):
            second = warm.run(arguments, cwd=tmp_path)
            tries, refused = tries + 1, refused + (second.code == 2)
            assert second.code == 2 and (
                "already there" in second.last_line or f"number {first.pid}" in second.last_line
            ), second.err
        assert first.wait() == 0, first.err
        assert not list(tmp_path.glob(f"run-{number}.old-*"))
        steps = [
            row["step"] for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if "loss" in row
        ]
        assert steps == list(range(1, 13))
    both = _at_the_same_moment(warm, tiny, quotes, tmp_path, amount(1, 12))
    _stale(warm, tiny, quotes, tmp_path)
    text = f"{refused} of {tries} refused while the first trained, {both} of {both} pairs begun at one moment: one trains, one is refused"
    figure(
        "two runs",
        f"{text} (exit 2); 0 mixed files; the lock of a killed process is none; --force does not move a run that trains",
    )


def _at_the_same_moment(warm: Warm, tiny: Path, quotes: Path, tmp_path: Path, count: int) -> int:
    for number in range(count):
        run = tmp_path / f"pair-{number}"
        pair = [warm.start(train_arguments(tiny, quotes, run), cwd=tmp_path) for _ in range(2)]
        codes = sorted(child.wait() for child in pair)
        assert codes == [0, 2], [child.err for child in pair]
        steps = [
            row["step"] for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if "loss" in row
        ]
        assert steps == list(range(1, 13))
    return count


def _stale(warm: Warm, tiny: Path, quotes: Path, tmp_path: Path) -> None:
    """A killed run's lock file stays, with its number in it; the system dropped the lock."""
    run = tmp_path / "killed"
    first = warm.start(train_arguments(tiny, quotes, run, steps=1000), cwd=tmp_path)
    while not list(run.glob("checkpoints/step-*")):
        assert first.poll() is None
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert (run / ".lock").read_text() == str(first.pid)
    assert warm.run(["resume", run, "--max-steps", "12"], cwd=tmp_path).code == 0
    # A folder that holds nothing but a lock is an empty one.
    (tmp_path / "only-a-lock").mkdir()
    (tmp_path / "only-a-lock" / ".lock").write_text("1")
    assert warm.run(train_arguments(tiny, quotes, tmp_path / "only-a-lock"), cwd=tmp_path).code == 0


def test_force_sets_the_old_run_aside(
    warm: Warm, tiny: Path, quotes: Path, reference: Callable[..., Path], tmp_path: Path
) -> None:
    shutil.copytree(reference(), tmp_path / "run")
    before = {
        p.relative_to(tmp_path / "run"): p.read_bytes()
        for p in (tmp_path / "run").rglob("*")
        if p.is_file() and p.name != ".lock"
    }
    assert warm.run(train_arguments(tiny, quotes, tmp_path / "run"), cwd=tmp_path).code == 2
    assert warm.run(train_arguments(tiny, quotes, tmp_path / "run", "--force"), cwd=tmp_path).code == 0
    aside = tmp_path / "run.old-1"
    assert {
        p.relative_to(aside): p.read_bytes() for p in aside.rglob("*") if p.is_file() and p.name != ".lock"
    } == before
