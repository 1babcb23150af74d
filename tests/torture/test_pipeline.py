"""A base whose blocks lie on several real processes: the losses, the adapter and the checkpoints of one process, which
resumes and loads what they left; and the same end when one of them is stopped or killed."""

from __future__ import annotations

import errno
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.tiny import save_tiny
from tests.torture.conftest import different_bits, weights
from tests.torture.many import assert_same, kill_again_and_again, metrics, saved, start, train_a_little, wait
from tests.warm import Child, Warm

STEPS = 8


@pytest.fixture(scope="module")
def five_blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four processes do not share five blocks evenly, and some of them have neither embedding nor head."""
    return save_tiny(tmp_path_factory.mktemp("models") / "five", layers=5)


def arguments(model: Path, quotes: Path, output: Path, *more: str, bits: int = 8) -> list[str]:
    settings = f"--bits {bits} --device cpu --max-steps {STEPS} --batch-size 8 --save-every 4 --eval-every 6"
    dtype = () if bits == 16 else ("--dtype", "float32")
    options = [
        *settings.split(),
        *dtype,
        "--lora-dropout",
        "0.2",
        "--neftune-alpha",
        "5",
        "--verdict-texts",
        "0",
        *more,
    ]
    return ["train", str(quotes), "--model", str(model), "--output", str(output), *options]


PIPELINE, CHAINS = ("--parallel", "pipeline"), ("--pipeline-stages", "2")
Runs = Callable[..., Path]


@pytest.fixture(scope="module")
def one(warm: Warm, five_blocks: Path, quotes: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """The run of one process with these options, made once."""
    made: dict[tuple[object, ...], Path] = {}

    def run(*more: str, bits: int = 8) -> Path:
        if (bits, *more) not in made:
            folder = tmp_path_factory.mktemp("one")
            child = warm.run(arguments(five_blocks, quotes, folder / "run", *more, bits=bits), cwd=folder)
            assert child.code == 0, child.err
            made[bits, *more] = folder / "run"
        return made[bits, *more]

    return run


def assert_same_checkpoints(run: Path, other: Path) -> None:
    """The same files, names and numbers to the rounding of float32, the optimizer's included."""
    ours, theirs = (sorted((folder / "checkpoints").glob("step-*")) for folder in (run, other))
    assert [path.name for path in ours] == [path.name for path in theirs]
    for mine, its in zip(ours, theirs, strict=True):
        # AdamW divides a gradient that is nearly nothing by itself: rounding moves a weight by up to a thousandth of a step
        for name, least in (("adapter", 1e-6), ("optimizer", 1e-7)):
            a, b = (load_file(path / f"{name}.safetensors") for path in (mine, its))
            assert list(a) == list(b)
            largest = {key: float(tensor.abs().max()) for key, tensor in b.items()}
            assert all(a[key].shape == b[key].shape for key in b)
            assert max(float((a[key] - b[key]).abs().max()) - 1e-4 * largest[key] for key in b) <= least
        states = [json.loads((path / "state.json").read_text()) for path in (mine, its)]
        assert states[0]["optimizer"] == states[1]["optimizer"] and states[0]["schedule"] == states[1]["schedule"]


def test_two_stages_train_what_one_process_trains(
    warm: Warm, five_blocks: Path, quotes: Path, tmp_path: Path, one: Runs, meeting: dict[str, str]
) -> None:
    run = tmp_path / "run"
    children = start(warm, arguments(five_blocks, quotes, run, *PIPELINE), tmp_path, 2, meeting)
    assert wait(children) == [0, 0], [child.err for child in children]
    assert_same(run, one())
    assert_same_checkpoints(run, one())
    assert "0: blocks 1-3 and the embedding; 1: blocks 4-5 and the head" in children[0].err + children[0].out
    assert not children[1].err + children[1].out  # one of them prints
    assert json.loads((run / "manifest.json").read_text())["stages"] == ["1-3", "4-5"]
    written = warm.run(["generate", "Be", "--run", str(run), "-n", "1", "--max-new-tokens", "3"], cwd=tmp_path)
    assert written.code == 0 and "Be" in written.out, written.err


@pytest.mark.parametrize(
    ("bits", "more"),
    [
        (8, ()),
        pytest.param(32, ("--batch-size", "1"), marks=pytest.mark.slow),  # a chain has no row
        pytest.param(4, ("--target-modules", "all-linear", "--max-grad-norm", "0.01"), marks=pytest.mark.slow),
        pytest.param(32, ("--memory", "lean", "--micro-batch-tokens", "32"), marks=pytest.mark.slow),
    ],
)
def test_two_chains_of_two_stages_train_what_one_process_trains(
    warm: Warm, five_blocks: Path, quotes: Path, tmp_path: Path, one: Runs, meeting: dict[str, str], bits: int, more: tuple[str, ...]
) -> None:  # fmt: skip
    run = tmp_path / "run"
    given = arguments(five_blocks, quotes, run, *PIPELINE, *CHAINS, *more, bits=bits)
    children = start(warm, given, tmp_path, 4, meeting)
    assert wait(children) == [0] * 4, [child.err for child in children]
    assert_same(run, one(*more, bits=bits))
    assert_same_checkpoints(run, one(*more, bits=bits))
    said = children[0].err + children[0].out
    assert "2 pipelines, which share the rows of a step, of 2 processes" in said
    assert "0 and 2: blocks 1-3 and the embedding; 1 and 3: blocks 4-5 and the head" in said
    ours, theirs = weights(run), weights(one(*more, bits=bits))
    apart = max(float((ours[n] - theirs[n]).abs().max()) for n in theirs)
    losses = max(
        abs(a / b - 1) for a, b in zip(metrics(run, "loss"), metrics(one(*more, bits=bits), "loss"), strict=True)
    )
    print(
        f"{bits} bits, 2 chains of 2 stages, {STEPS} steps: losses {losses:.1e} apart (relative), adapters {apart:.1e}"
    )


@pytest.mark.slow
def test_two_chains_go_on_as_one_and_then_as_one_process(
    warm: Warm, five_blocks: Path, quotes: Path, tmp_path: Path, one: Runs, meeting: dict[str, str]
) -> None:
    run, more = tmp_path / "run", ("--max-steps", "400")
    train_a_little(warm, arguments(five_blocks, quotes, run, *PIPELINE, *CHAINS, *more), run, tmp_path, 4, meeting)
    train_a_little(warm, ["resume", str(run)], run, tmp_path, 2, meeting)
    resumed = warm.run(["resume", str(run)], cwd=tmp_path)
    assert resumed.code == 0, resumed.err
    assert_same(run, one(*more))


@pytest.mark.slow
def test_a_signal_to_one_stage_stops_all_and_one_process_resumes(
    warm: Warm, five_blocks: Path, quotes: Path, tmp_path: Path, one: Runs, meeting: dict[str, str]
) -> None:
    run, more = tmp_path / "run", ("--max-steps", "60")
    children = start(warm, arguments(five_blocks, quotes, run, *PIPELINE, *more), tmp_path, 2, meeting)
    saved(run, children)
    children[1].send(signal.SIGTERM)
    assert wait(children, 30) == [143, 143], [child.err for child in children]
    assert "is saved. Type: florilegium resume" in children[0].last_line and not children[1].err
    resumed = warm.run(["resume", str(run)], cwd=tmp_path)
    assert resumed.code == 0, resumed.err
    assert "changed processes from 2 to 1" in (run / "events.jsonl").read_text()
    assert_same(run, one(*more))


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("bits", [32, 8, 4])
def test_the_same_in_all_bits(
    warm: Warm, five_blocks: Path, quotes: Path, tmp_path: Path, one: Runs, meeting: dict[str, str], bits: int, world: int
) -> None:  # fmt: skip
    run = tmp_path / "run"
    children = start(warm, arguments(five_blocks, quotes, run, *PIPELINE, bits=bits), tmp_path, world, meeting)
    assert wait(children) == [0] * world, [child.err for child in children]
    other = one(bits=bits)
    assert_same(run, other)
    assert_same_checkpoints(run, other)
    ours, theirs = weights(run), weights(other)
    apart = max(float((ours[n] - theirs[n]).abs().max()) for n in theirs)
    losses = max(abs(a / b - 1) for a, b in zip(metrics(run, "loss"), metrics(other, "loss"), strict=True))
    print(f"{bits} bits, {world} stages, {STEPS} steps: losses {losses:.1e} apart (relative), adapters {apart:.1e}")


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_bfloat16_to_the_bit_where_the_micro_batches_are_the_same(
    warm: Warm, five_blocks: Path, quotes: Path, tmp_path: Path, one: Runs, meeting: dict[str, str], world: int
) -> None:
    """A row a step is one micro-batch either way. (Others are summed in another order, and 8 bits of mantissa show it.)
    Clipping is off: the norm of a stage is a sum of its own."""
    more, run = ("--batch-size", "1", "--max-grad-norm", "0"), tmp_path / "run"
    children = start(warm, arguments(five_blocks, quotes, run, *PIPELINE, *more, bits=16), tmp_path, world, meeting)
    assert wait(children) == [0] * world, [child.err for child in children]
    assert metrics(run, "loss") == metrics(one(*more, bits=16), "loss")
    assert different_bits(weights(run), weights(one(*more, bits=16))) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        ("--lora-plus-ratio", "2", "--weight-decay", "0.1"),
        ("--memory", "lean", "--micro-batch-tokens", "32"),
        ("--target-modules", "all-linear", "--max-grad-norm", "0.01"),
        ("--batch-size", "1"),
        ("--kernels", "off", "--lora-init", "gaussian", "--rslora"),
    ],
)
def test_the_same_with_other_settings(
    warm: Warm, five_blocks: Path, quotes: Path, tmp_path: Path, one: Runs, meeting: dict[str, str], more: tuple[str, ...]
) -> None:  # fmt: skip
    run = tmp_path / "run"
    children = start(warm, arguments(five_blocks, quotes, run, *PIPELINE, *more, bits=32), tmp_path, 4, meeting)
    assert wait(children) == [0] * 4, [child.err for child in children]
    assert_same(run, one(*more, bits=32))
    assert_same_checkpoints(run, one(*more, bits=32))


@pytest.mark.slow
def test_a_run_is_trained_further_as_one_process_does(
    warm: Warm, five_blocks: Path, quotes: Path, tmp_path: Path, one: Runs, meeting: dict[str, str]
) -> None:
    """From the adapter that one process left; what is forgotten of other rows passes through the pipeline, too."""
    others = tmp_path / "others.jsonl"
    others.write_text("".join(quotes.read_text().splitlines(keepends=True)[:30]))
    further = ["train", str(others), "--from", str(one()), "--max-steps", "4", "--device", "cpu", "--dtype", "float32"]
    alone = warm.run([*further, "--output", "alone"], cwd=tmp_path)
    assert alone.code == 0, alone.err
    children = start(warm, [*further, "--output", "run", *PIPELINE], tmp_path, 2, meeting)
    assert wait(children) == [0, 0], [child.err for child in children]
    assert_same(tmp_path / "run", tmp_path / "alone")
    forgotten = [json.loads((tmp_path / n / "manifest.json").read_text())["forgotten"] for n in ("run", "alone")]
    assert forgotten[0]["loss_after"] == pytest.approx(forgotten[1]["loss_after"], rel=1e-6)


@pytest.mark.slow
def test_four_stages_then_two_copies_then_one(
    warm: Warm, five_blocks: Path, quotes: Path, tmp_path: Path, one: Runs, meeting: dict[str, str]
) -> None:
    run, more = tmp_path / "run", ("--max-steps", "400")
    commands = (
        (4, arguments(five_blocks, quotes, run, *PIPELINE, *more)),
        (2, ["resume", str(run), "--parallel", "data"]),
        (2, ["resume", str(run), *PIPELINE]),
    )
    for world, given in commands:
        train_a_little(warm, given, run, tmp_path, world, meeting)
    resumed = warm.run(["resume", str(run)], cwd=tmp_path)
    assert resumed.code == 0, resumed.err
    assert_same(run, one(*more))


@pytest.mark.slow
def test_one_process_began_and_a_pipeline_of_dropout_resumes_to_the_same_bits(
    warm: Warm, five_blocks: Path, quotes: Path, tmp_path: Path, meeting: dict[str, str]
) -> None:
    whole, run, more = tmp_path / "whole", tmp_path / "run", (*PIPELINE, "--lora-dropout", "0.3", "--max-steps", "60")
    children = start(warm, arguments(five_blocks, quotes, whole, *more), tmp_path, 2, meeting)
    assert wait(children) == [0, 0], [child.err for child in children]
    children = start(warm, arguments(five_blocks, quotes, run, *more), tmp_path, 2, meeting)
    saved(run, children)
    children[0].send(signal.SIGINT)
    assert wait(children, 30) == [130, 130], [child.err for child in children]
    children = start(warm, ["resume", str(run)], tmp_path, 2, meeting)
    assert wait(children) == [0, 0], [child.err for child in children]
    assert different_bits(weights(run), weights(whole)) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("world", "rank"), [(3, 0), (3, 1), (3, 2), (4, 1), (4, 2)])
def test_a_stage_that_is_killed_ends_all_with_one_line(
    warm: Warm, five_blocks: Path, quotes: Path, tmp_path: Path, world: int, rank: int, meeting: dict[str, str]
) -> None:
    run, more = tmp_path / "run", CHAINS if world == 4 else ()
    given = arguments(five_blocks, quotes, run, *PIPELINE, *more, "--max-steps", "100000")
    children = start(warm, given, tmp_path, world, meeting)
    saved(run, children)
    children[rank].send(signal.SIGKILL)
    codes = wait(children, 30)
    assert sorted(codes) == [-9] + [5] * (world - 1) and codes[rank] == -9, [child.err for child in children]
    told = [line for child in children for line in child.err.splitlines() if line.startswith("florilegium:")]
    assert len(told) == 1 and "another process of this run has ended" in told[0], told
    assert f"is saved. Type: florilegium resume {run}" in told[0]
    assert not any(child.left_behind() for child in children)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "fault", "codes", "line"),
    [
        (1, ("spoil_a_stage", {"how": "nan", "step": 3}), [6, 6], "diverged at step 3"),
        (0, ("spoil_a_stage", {"how": "nan", "step": 3}), [6, 6], "diverged at step 3"),
        (0, ("fail_operation", {"at": 40, "error": errno.ENOSPC, "kinds": ["write"]}), [5, 5], "No space left"),
        (1, ("spoil_a_stage", {"how": "memory", "step": 2}), [5, 5], "process 1: memory ran out in a step"),
    ],
)  # fmt: skip
def test_what_happens_to_one_stage_ends_all_and_is_told_once(
    warm: Warm, five_blocks: Path, quotes: Path, tmp_path: Path, meeting: dict[str, str],
    rank: int, fault: tuple[str, dict[str, Any]], codes: list[int], line: str,
) -> None:  # fmt: skip
    given = arguments(five_blocks, quotes, tmp_path / "run", *PIPELINE)
    children = start(warm, given, tmp_path, 2, meeting, {rank: fault})
    assert wait(children, 30) == codes, [child.err for child in children]
    told = [text for child in children for text in child.err.splitlines() if text.startswith("florilegium:")]
    assert len(told) == 1 and line in told[0], told


@pytest.mark.slow
def test_twenty_kills_leave_nobody(
    warm: Warm, five_blocks: Path, quotes: Path, tmp_path: Path, meeting: dict[str, str]
) -> None:
    def begin(run: Path) -> list[Child]:
        return start(
            warm, arguments(five_blocks, quotes, run, *PIPELINE, "--max-steps", "100000"), tmp_path, 2, meeting
        )

    print(kill_again_and_again(begin, tmp_path, 20, seed=11))
