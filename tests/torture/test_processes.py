"""Several real processes on the CPU train one adapter: the same as one process trains, and none is left behind when one
of them is stopped or killed."""

from __future__ import annotations

import errno
import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import PAGES
from tests.torture.conftest import different_bits, weights
from tests.torture.many import assert_same, kill_again_and_again, metrics, saved, start, train_a_little, wait
from tests.warm import Child, Warm

STEPS = 150
VERDICT = ("--verdict-texts", "6")


def arguments(tiny: Path, quotes: Path, output: Path, *more: str) -> list[str]:
    """Five rows a step: with four processes some have one, and the last step of an epoch is short."""
    settings = (
        f"--bits 32 --device cpu --max-steps {STEPS} --batch-size 5 --save-every 10 --eval-every 50 --log-every 1"
    )
    options = [*settings.split(), "--lora-dropout", "0.2", "--neftune-alpha", "5", "--verdict-texts", "0", *more]
    return ["train", str(quotes), "--model", str(tiny), "--output", str(output), *options]


@pytest.fixture(scope="module")
def one(warm: Warm, tiny: Path, quotes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    folder = tmp_path_factory.mktemp("one")
    child = warm.run(arguments(tiny, quotes, folder / "run", *VERDICT), cwd=folder)
    assert child.code == 0, child.err
    return folder / "run"


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_the_adapter_of_one_process(
    warm: Warm, tiny: Path, quotes: Path, one: Path, tmp_path: Path, world: int, meeting: dict[str, str]
) -> None:
    marks = [tmp_path / f"texts of {rank}" for rank in range(world)]
    faults = {rank: ("in_a_share", {"mark": str(mark)}) for rank, mark in enumerate(marks)}
    given = arguments(tiny, quotes, tmp_path / "run", *VERDICT)
    children = start(warm, given, tmp_path, world, meeting, faults)
    assert wait(children) == [0] * world, [child.err for child in children]
    assert_same(tmp_path / "run", one)
    drawn = [(folder / "samples.jsonl").read_text().splitlines() for folder in (tmp_path / "run", one)]
    texts = [(json.loads(row)["step"], row == other) for row, other in zip(*drawn, strict=True)]
    # from the same weights the same texts; later adapters differ in the eighth digit, and a draw may fall on an edge
    assert all(same for step, same in texts if step == 0) and sum(same for _, same in texts) >= len(texts) - 2
    figures = [json.loads((run / "manifest.json").read_text()) for run in (tmp_path / "run", one)]
    verdicts = [figure["verdict"] for figure in figures]
    assert verdicts[0].keys() == verdicts[1].keys() and [verdict["texts"] for verdict in verdicts] == [6, 6]
    written = [list(map(int, mark.read_text().split())) for mark in marks]
    assert [sum(texts) for texts in zip(*written, strict=True)] == [3, 3, 3, 3, 6]  # samples at 0, 50, 100, 150
    assert all(max(texts) - min(texts) <= 1 for texts in zip(*written, strict=True))
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["processes"] == world
    assert f"parallel {world} processes" in children[0].err + children[0].out
    assert not any(child.err + child.out for child in children[1:])  # one of them prints
    ours, theirs = weights(tmp_path / "run"), weights(one)
    apart = max(float((ours[n] - theirs[n]).abs().max()) for n in theirs)
    losses = max(abs(a - b) for a, b in zip(metrics(tmp_path / "run", "loss"), metrics(one, "loss"), strict=True))
    print(f"{world} processes, {STEPS} steps: losses {losses:.1e} apart, adapters {apart:.1e}")


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_an_evaluation_in_shares_finds_the_same(
    warm: Warm, one: Path, tmp_path: Path, world: int, meeting: dict[str, str]
) -> None:
    runs = [Path(shutil.copytree(one, tmp_path / name)) for name in ("shared", "alone")]
    commands = [
        ["evaluate", str(run), *["--base", "--generations", "9", "--json", "--general"], str(PAGES)] for run in runs
    ]
    marks = [tmp_path / f"texts of {rank}" for rank in range(world)]
    faults = {rank: ("in_a_share", {"mark": str(mark)}) for rank, mark in enumerate(marks)}
    children = start(warm, commands[0], tmp_path, world, meeting, faults)
    assert wait(children) == [0] * world, [child.err for child in children]
    assert not any(child.err + child.out for child in children[1:])
    alone = warm.run(commands[1], cwd=tmp_path)
    assert alone.code == 0, alone.err
    ours, theirs = (json.loads((run / "evaluation.json").read_text()) for run in runs)
    assert json.loads(children[0].out) == ours
    assert_close({**ours, "elapsed_seconds": 0}, {**theirs, "elapsed_seconds": 0})
    written = [list(map(int, mark.read_text().split())) for mark in marks]
    together = [sum(texts) for texts in zip(*written, strict=True)]
    assert together.count(9) == 2  # tuned and base; the others are tags of held-out rows
    assert all(max(texts) - min(texts) <= 1 for texts in zip(*written, strict=True))


def assert_close(ours: Any, theirs: Any) -> None:
    """Numbers to the rounding of float32, all else equal."""
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for name in theirs:
            assert_close(ours[name], theirs[name])
    elif isinstance(theirs, list):
        for mine, its in zip(ours, theirs, strict=True):
            assert_close(mine, its)
    elif isinstance(theirs, float):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)
    else:
        assert ours == theirs


def test_a_signal_to_one_stops_all_and_one_process_resumes(
    warm: Warm, tiny: Path, quotes: Path, one: Path, tmp_path: Path, meeting: dict[str, str]
) -> None:
    run = tmp_path / "run"
    children = start(warm, arguments(tiny, quotes, run), tmp_path, 2, meeting)
    saved(run, children)
    children[1].send(signal.SIGTERM)
    assert wait(children, 30) == [143, 143], [child.err for child in children]
    assert "is saved. Type: florilegium resume" in children[0].last_line and not children[1].err
    resumed = warm.run(["resume", str(run)], cwd=tmp_path)
    assert resumed.code == 0, resumed.err
    assert "changed processes from 2 to 1" in (run / "events.jsonl").read_text()
    assert_same(run, one)


@pytest.mark.parametrize("rank", [0, 1])
def test_one_that_is_killed_ends_all_with_one_line(
    warm: Warm, tiny: Path, quotes: Path, tmp_path: Path, rank: int, meeting: dict[str, str]
) -> None:
    run = tmp_path / "run"
    children = start(warm, arguments(tiny, quotes, run, "--max-steps", "100000"), tmp_path, 2, meeting)
    saved(run, children)
    children[rank].send(signal.SIGKILL)
    codes, other = wait(children, 30), children[1 - rank]
    assert codes[rank] == -9 and codes[1 - rank] == 5, other.err
    assert other.last_line.startswith("florilegium: another process of this run has ended")
    assert f"is saved. Type: florilegium resume {run}" in other.last_line
    assert sum(child.err.count("florilegium:") for child in children) == 1
    assert not any(child.left_behind() for child in children)


def test_one_that_waits_for_a_kernel_is_told_that_another_is_gone(
    warm: Warm, tiny: Path, quotes: Path, tmp_path: Path, meeting: dict[str, str]
) -> None:
    """Two of three wait in a call that neither ends nor can be ended; the launcher would kill them after 30 seconds."""
    run, marks = tmp_path / "run", {rank: tmp_path / f"{rank} waits" for rank in (0, 2)}
    faults = {rank: ("wait_for_a_kernel", {"step": 12, "mark": str(mark)}) for rank, mark in marks.items()}
    given = arguments(tiny, quotes, run, "--max-steps", "100000")
    children = start(warm, given, tmp_path, 3, meeting, faults)
    deadline = time.monotonic() + 60
    while not all(mark.exists() for mark in marks.values()):
        assert time.monotonic() < deadline and all(c.poll() is None for c in children), [c.err for c in children]
        time.sleep(0.005)
    children[1].send(signal.SIGKILL)
    began = time.monotonic()
    assert wait(children, 60) == [5, -9, 5], [child.err for child in children]
    print(f"all ended {time.monotonic() - began:.1f} s after the kill")
    told = [line for child in children for line in child.err.splitlines() if line.startswith("florilegium:")]
    assert len(told) == 1 and "step 10 is saved. Type: florilegium resume" in told[0], told
    assert not any(child.left_behind() for child in children)


def test_one_that_runs_out_of_memory_takes_smaller_pieces(
    warm: Warm, tiny: Path, quotes: Path, one: Path, tmp_path: Path, meeting: dict[str, str]
) -> None:
    """Alone: the others wait, and every sum is made once."""
    lack = ("let_memory_run_out", {"step": 4, "tokens": 24, "kind": "cpu"})
    children = start(warm, arguments(tiny, quotes, tmp_path / "run"), tmp_path, 2, meeting, {0: lack})
    assert wait(children) == [0, 0], [child.err for child in children]
    assert "retrying this step" in (tmp_path / "run" / "events.jsonl").read_text()
    assert_same(tmp_path / "run", one)


@pytest.mark.parametrize(
    ("rank", "fault", "codes", "line"),
    [
        (0, ("put_a_number_that_is_none", {"kind": "loss", "step": 3, "value": "nan"}), [6, 6], "diverged at step 3"),
        (0, ("fail_operation", {"at": 40, "error": errno.ENOSPC, "kinds": ["write"]}), [5, 5], "No space left"),
        (1, ("let_memory_run_out", {"step": 2, "tokens": 0, "kind": "cpu"}), [5, 5], "one row alone does not fit"),
    ],
)
def test_what_happens_to_one_ends_all_and_is_told_once(
    warm: Warm, tiny: Path, quotes: Path, tmp_path: Path, meeting: dict[str, str],
    rank: int, fault: tuple[str, dict[str, Any]], codes: list[int], line: str,
) -> None:  # fmt: skip
    children = start(warm, arguments(tiny, quotes, tmp_path / "run"), tmp_path, 2, meeting, {rank: fault})
    assert wait(children, 30) == codes, [child.err for child in children]
    told = [text for child in children for text in child.err.splitlines() if text.startswith("florilegium:")]
    assert len(told) == 1 and line in told[0], told


def test_a_share_of_texts_that_one_cannot_write_ends_nothing(
    warm: Warm, tiny: Path, quotes: Path, tmp_path: Path, meeting: dict[str, str]
) -> None:
    run, fault = tmp_path / "run", ("in_a_share", {"mark": str(tmp_path / "mark"), "how": "memory"})
    given = arguments(tiny, quotes, run, "--max-steps", "2", *VERDICT)
    children = start(warm, given, tmp_path, 2, meeting, {1: fault})
    assert wait(children) == [0, 0], [child.err for child in children]
    assert "no samples: generation does not fit in memory" in (run / "events.jsonl").read_text()
    assert len((run / "samples.jsonl").read_text().splitlines()) == 3  # those of the second evaluation


def test_a_signal_to_one_that_writes_ends_the_texts_of_all(
    warm: Warm, tiny: Path, quotes: Path, tmp_path: Path, meeting: dict[str, str]
) -> None:
    run, fault = tmp_path / "run", ("in_a_share", {"mark": str(tmp_path / "mark"), "how": "signal"})
    given = arguments(tiny, quotes, run, "--max-steps", "2", *VERDICT)
    children = start(warm, given, tmp_path, 2, meeting, {1: fault})
    assert wait(children, 30) == [143, 143], [child.err for child in children]
    assert "stopped by SIGTERM: step 0 is saved" in children[0].last_line and not children[1].err
    resumed = warm.run(["resume", str(run)], cwd=tmp_path)
    assert resumed.code == 0, resumed.err
    assert len((run / "samples.jsonl").read_text().splitlines()) == 6


@pytest.mark.slow
def test_with_dropout_two_resume_to_the_same_bits(
    warm: Warm, tiny: Path, quotes: Path, tmp_path: Path, meeting: dict[str, str]
) -> None:
    """Chance depends on seed, step and row alone, so checkpoints need no random state of each."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    given = ("--lora-dropout", "0.3")
    children = start(warm, arguments(tiny, quotes, whole, *given), tmp_path, 2, meeting)
    assert wait(children) == [0, 0], [child.err for child in children]
    children = start(warm, arguments(tiny, quotes, run, *given), tmp_path, 2, meeting)
    saved(run, children)
    children[0].send(signal.SIGINT)
    assert wait(children, 30) == [130, 130], [child.err for child in children]
    children = start(warm, ["resume", str(run)], tmp_path, 2, meeting)
    assert wait(children) == [0, 0], [child.err for child in children]
    assert different_bits(weights(run), weights(whole)) == 0


@pytest.mark.slow
def test_fifty_kills_leave_nobody(
    warm: Warm, tiny: Path, quotes: Path, tmp_path: Path, meeting: dict[str, str]
) -> None:
    """At any moment, loading included: all end, what is there is resumed."""

    def begin(run: Path) -> list[Child]:
        return start(warm, arguments(tiny, quotes, run, "--max-steps", "100000"), tmp_path, 2, meeting)

    print(kill_again_and_again(begin, tmp_path, 50, seed=7))


@pytest.mark.slow
def test_two_resume_what_one_began(
    warm: Warm, tiny: Path, quotes: Path, one: Path, tmp_path: Path, meeting: dict[str, str]
) -> None:
    run = tmp_path / "run"
    child = warm.start(arguments(tiny, quotes, run), cwd=tmp_path)
    saved(run, [child])
    child.send(signal.SIGTERM)
    assert child.wait() == 143, child.err
    children = start(warm, ["resume", str(run)], tmp_path, 2, meeting)
    assert wait(children) == [0, 0], [child.err for child in children]
    assert_same(run, one)


@pytest.mark.slow
def test_four_begin_two_go_on_and_one_ends(
    warm: Warm, tiny: Path, quotes: Path, one: Path, tmp_path: Path, meeting: dict[str, str]
) -> None:
    run = tmp_path / "run"
    train_a_little(warm, arguments(tiny, quotes, run), run, tmp_path, 4, meeting)
    train_a_little(warm, ["resume", str(run)], run, tmp_path, 2, meeting)
    resumed = warm.run(["resume", str(run)], cwd=tmp_path)
    assert resumed.code == 0, resumed.err
    said = (run / "events.jsonl").read_text()
    assert "changed processes from 4 to 2" in said and "changed processes from 2 to 1" in said
    assert_same(run, one)


def test_what_all_would_say_is_said_once(
    warm: Warm, tiny: Path, quotes: Path, tmp_path: Path, meeting: dict[str, str]
) -> None:
    given = arguments(tiny, quotes, tmp_path / "run", "--target-modules", "nothing_like_it")
    children = start(warm, given, tmp_path, 2, meeting)
    codes = wait(children, 30)
    assert codes[0] in (2, 4) and codes[1] in (codes[0], 5), [child.err for child in children]
    assert sum(child.err.count("florilegium:") for child in children) == 1, [child.err for child in children]
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_download_may_take_longer_than_any_sum(
    warm: Warm, tiny: Path, quotes: Path, tmp_path: Path, meeting: dict[str, str]
) -> None:
    faults = {rank: ("take_long_to_prepare", {"seconds": 45.0 * (1 - rank), "patience": 30.0}) for rank in (0, 1)}
    given = arguments(tiny, quotes, tmp_path / "run", "--max-steps", "2")
    children = start(warm, given, tmp_path, 2, meeting, faults)
    assert wait(children, 240) == [0, 0], [child.err for child in children]


def test_one_that_waits_for_the_others_can_be_ended(
    warm: Warm, tiny: Path, quotes: Path, tmp_path: Path, meeting: dict[str, str]
) -> None:
    """A launcher ends those that are left when one ends before they met."""
    first = meeting | {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}
    child = warm.start(arguments(tiny, quotes, tmp_path / "run"), cwd=tmp_path, env=first)
    time.sleep(1.5)
    child.send(signal.SIGTERM)
    assert child.wait(10) in (143, -signal.SIGTERM), child.err
    assert not (tmp_path / "run").exists()
