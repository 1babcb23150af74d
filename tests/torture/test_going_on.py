"""Going on with changed settings, and two processes that want one directory."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from florilegium.config import read_config
from florilegium.going_on import CHANGEABLE
from tests.tiny import save_tiny
from tests.torture.conftest import different_bits, train_arguments, weights
from tests.torture.warm import Warm

APPLIED = {
    "learning_rate": 0.0001, "schedule": "linear", "warmup": 0.5, "weight_decay": 0.1, "clip": 0.01, "max_steps": 14, "dropout": 0.0,
    "neftune_alpha": 5.0, "batch_tokens": 128, "memory": "lean", "fast": "off", "patience": 1,
    "evaluate_every": 3, "save_every": 3, "keep_checkpoints": 1, "log_every": 4,
}  # fmt: skip
REFUSED = {
    "rank": 8, "alpha": 8.0, "bits": 8, "seed": 3, "batch_rows": 4, "template": "{quote} :: {tags}", "loss_on": "tags", "rslora": True,
    "max_length": 64, "held_out": 0.3, "lora_plus_ratio": 4.0, "optimizer": "adamw-8bit", "target_modules": "dense",
    "init_lora": "gaussian",
    "skip_bad_rows": True,
}  # fmt: skip
SAME_BITS = {"memory", "fast", "evaluate_every", "save_every", "keep_checkpoints", "log_every", "batch_tokens", "patience"}


@pytest.fixture(scope="module")
def stopped(reference: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """A copy of a run that stands at step 10 of 12."""

    def copy() -> Path:
        run = tmp_path_factory.mktemp("stopped") / "run"
        shutil.copytree(reference(), run)
        shutil.rmtree(run / "adapter")
        shutil.rmtree(run / "checkpoints" / "step-00000012")
        return run

    return copy


def flag(name: str, value: object) -> list[str]:
    return ["--" + name.replace("_", "-")] + ([] if value is True else [str(value)])


def test_every_change_is_applied_or_refused_and_said(
    warm: Warm, tiny: Path, quotes: Path, stopped: Callable[[], Path], reference: Callable[..., Path], tmp_path: Path,
    amount: Callable[[int, int], int], figure: Callable[[str, str], None],
) -> None:  # fmt: skip
    applied = list(APPLIED.items()) if amount(0, 1) else list(APPLIED.items())[:3]
    for number, (name, value) in enumerate(applied):
        run = stopped()
        by_hand = number % 2  # written into config.yaml, or given as a flag
        if by_hand:
            edit_config(run, name, value)
        child = warm.run(["resume", run, *([] if by_hand else flag(name, value))], cwd=tmp_path)
        assert child.code == 0 and f"changed {name} from " in child.err and f" to {value}" in child.err, (name, child.err)
        events = (run / "events.jsonl").read_text()
        assert f"changed {name} from" in events and read_config(run / "config.yaml")[name] == value
        if name not in SAME_BITS:
            assert different_bits(weights(run), weights(reference())) > 0, f"{name} was said to be applied, and changed nothing"
    refused = list(REFUSED.items()) if amount(0, 1) else list(REFUSED.items())[:5]
    for number, (name, value) in enumerate(refused):
        run = stopped()
        before = sorted((p, p.stat().st_mtime_ns) for p in run.rglob("*") if p.name != "config.yaml")
        if number % 2:
            edit_config(run, name, value)
        child = warm.run(["resume", run, *([] if number % 2 else flag(name, value))], cwd=tmp_path)
        assert child.code == 2 and "cannot change on the way" in child.last_line and name.replace("_", "-") in child.last_line, child.err
        assert sorted((p, p.stat().st_mtime_ns) for p in run.rglob("*") if p.name not in ("config.yaml", ".lock")) == [
            entry for entry in before if entry[0].name != ".lock"
        ]
    _other_rows_and_base(warm, tiny, quotes, stopped, tmp_path)
    text = f"{len(applied)} settings applied and said, {len(refused)} refused, by flag and by hand"
    figure("changed settings", f"{text}; other rows refused (exit 3), another base refused (exit 4); 0 ignored")


def edit_config(run: Path, name: str, value: object) -> None:
    path = run / "config.yaml"
    lines = [line for line in path.read_text().splitlines() if not line.startswith(f"{name}:")]
    path.write_text("\n".join([*lines, f"{name}: {json.dumps(value)}"]) + "\n")


def _other_rows_and_base(warm: Warm, tiny: Path, quotes: Path, stopped: Callable[[], Path], tmp_path: Path) -> None:
    """The paths are the same, what lies there is not."""
    rows, base = tmp_path / "rows.jsonl", tmp_path / "base"
    shutil.copy(quotes, rows)
    shutil.copytree(tiny, base)
    run = tmp_path / "own"
    child = warm.run(train_arguments(base, rows, run), cwd=tmp_path)
    assert child.code == 0, child.err
    shutil.rmtree(run / "adapter")
    rows.write_text(quotes.read_text().replace("Be kind", "Be good"))
    child = warm.run(["resume", run], cwd=tmp_path)
    assert child.code == 3 and "others than when" in child.last_line
    shutil.copy(quotes, rows)
    shutil.rmtree(base)
    save_tiny(base, seed=1)
    child = warm.run(["resume", run], cwd=tmp_path)
    assert child.code == 4 and "another than when" in child.last_line


def test_what_may_change_is_what_is_tested() -> None:
    untested = set(CHANGEABLE) - set(APPLIED)
    assert untested == {"device", "report_to", "epochs", "compute"}


def test_resuming_at_the_end_changes_nothing(warm: Warm, reference: Callable[..., Path], tmp_path: Path) -> None:
    """Killed between the last checkpoint and the adapter."""
    run = tmp_path / "run"
    shutil.copytree(reference(), run)
    shutil.rmtree(run / "adapter")
    child = warm.run(["resume", run], cwd=tmp_path)
    assert child.code == 0 and different_bits(weights(run), weights(reference())) == 0
    card, right = (run / "adapter" / "README.md").read_text(), (reference() / "adapter" / "README.md").read_text()
    assert card.split("## As it came out")[1] == right.split("## As it came out")[1]
    assert warm.run(["resume", run], cwd=tmp_path).code == 2  # it is finished


@pytest.mark.parametrize("tear", ['{"step": 3, "lo', "null\n", "7\n", '{"step": "x"}\n', "\0\0\0\0", '{"a":' * 3000, "\udcff"])
def test_a_torn_log_is_mended(warm: Warm, stopped: Callable[[], Path], reference: Callable[..., Path], tmp_path: Path, tear: str) -> None:
    run = stopped()
    for name in ("metrics.jsonl", "samples.jsonl"):
        with (run / name).open("a", errors="surrogateescape") as file:
            file.write(tear)
    child = warm.run(["resume", run], cwd=tmp_path)
    assert child.code == 0, child.err
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows if "loss" in row]
    assert steps == list(range(1, 13))


def test_two_runs_into_one_directory(
    warm: Warm, tiny: Path, quotes: Path, tmp_path: Path, amount: Callable[[int, int], int], figure: Callable[[str, str], None]
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
        for arguments in (train_arguments(tiny, quotes, run), train_arguments(tiny, quotes, run, "--force"), ["resume", run]):
            second = warm.run(arguments, cwd=tmp_path)
            tries, refused = tries + 1, refused + (second.code == 2)
            assert second.code == 2 and ("already there" in second.last_line or f"number {first.pid}" in second.last_line), second.err
        assert first.wait() == 0, first.err
        assert not list(tmp_path.glob(f"run-{number}.old-*"))
        steps = [row["step"] for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if "loss" in row]
        assert steps == list(range(1, 13))
    both = _at_the_same_moment(warm, tiny, quotes, tmp_path, amount(1, 12))
    _stale(warm, tiny, quotes, tmp_path)
    text = f"{refused} of {tries} refused while the first trained, {both} of {both} pairs begun at one moment: one trains, one is refused"
    figure("two runs", f"{text} (exit 2); 0 mixed files; the lock of a killed process is none; --force does not move a run that trains")


def _at_the_same_moment(warm: Warm, tiny: Path, quotes: Path, tmp_path: Path, count: int) -> int:
    for number in range(count):
        run = tmp_path / f"pair-{number}"
        pair = [warm.start(train_arguments(tiny, quotes, run), cwd=tmp_path) for _ in range(2)]
        codes = sorted(child.wait() for child in pair)
        assert codes == [0, 2], [child.err for child in pair]
        steps = [row["step"] for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if "loss" in row]
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


def test_force_sets_the_old_run_aside(warm: Warm, tiny: Path, quotes: Path, reference: Callable[..., Path], tmp_path: Path) -> None:
    shutil.copytree(reference(), tmp_path / "run")
    before = {p.relative_to(tmp_path / "run"): p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file() and p.name != ".lock"}
    assert warm.run(train_arguments(tiny, quotes, tmp_path / "run"), cwd=tmp_path).code == 2
    assert warm.run(train_arguments(tiny, quotes, tmp_path / "run", "--force"), cwd=tmp_path).code == 0
    aside = tmp_path / "run.old-1"
    assert {p.relative_to(aside): p.read_bytes() for p in aside.rglob("*") if p.is_file() and p.name != ".lock"} == before
