"""Several processes: who this one is, how rows are dealt, how a run ends. Whole runs are in
tests/torture/test_processes.py."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from florilegium.cli.main import main
from florilegium.config.processes import ProcessPlace, read_place
from florilegium.errors import UsageError
from florilegium.runs.launch import check_gpus, exit_code_of
from florilegium.signals import SIGNALS, StopRequest
from florilegium.tokens.deal import deal
from florilegium.training import ALONE, SharedStop
from florilegium.training.step_sums import seed_of

MEETING = {"WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


def test_the_place_is_the_launchers() -> None:
    assert read_place({}) == read_place({"RANK": "3", "LOCAL_RANK": "3"}) == ProcessPlace(0, 1, 0)
    assert read_place({"WORLD_SIZE": "1", "RANK": "0"}) == ProcessPlace(0, 1, 0)
    assert read_place(MEETING | {"RANK": "1"}) == ProcessPlace(1, 2, 1)


@pytest.mark.parametrize(
    ("given", "cause"),
    [
        (MEETING, "RANK not set"),
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}, "MASTER_ADDR and MASTER_PORT not set"),
        (MEETING | {"RANK": "2"}, "RANK is 2, and WORLD_SIZE 2"),
        (MEETING | {"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'"),
    ],
)
def test_a_place_that_makes_no_sense_is_refused(given: dict[str, str], cause: str) -> None:
    with pytest.raises(UsageError, match=cause):
        read_place(given)


@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_every_row_is_dealt_once_and_tokens_evenly(world: int) -> None:
    draw = random.Random(3)
    for rows in (1, 2, 16, 100):
        lengths = [draw.randint(5, 200) for _ in range(rows)]
        shares = deal(lengths, world)
        assert sorted(i for share in shares for i in share) == list(range(rows))
        tokens = [sum(lengths[i] for i in share) for share in shares]
        assert max(tokens) - min(tokens) <= max(lengths)  # greedy: never further apart than one row
        assert all(share == sorted(share) for share in shares)
    assert deal(lengths, 1) == [list(range(rows))]


def test_alone_nothing_is_asked_of_anybody() -> None:
    tensor = torch.tensor([1.0, 2.0])
    assert ALONE.sum_(tensor) is tensor and not torch.distributed.is_initialized()
    assert ALONE.smallest(7) == ALONE.largest(7) == 7 and ALONE.first_of_all("runs/x") == "runs/x"
    rows: list[int] = []
    assert ALONE.share_of(rows) is rows  # type: ignore[arg-type]
    with ALONE.first_then_others():
        ALONE.wait()


def test_a_stop_that_one_heard_is_read_by_all() -> None:
    heard, quiet = StopRequest(), StopRequest()
    heard.number = 15
    sums = [a + b for a, b in zip(SharedStop(heard).flags(), SharedStop(quiet).flags(), strict=True)]
    agreed = SharedStop(quiet)
    agreed.read([0.0] * len(SIGNALS))
    assert agreed.number == 0
    agreed.read(sums)
    assert agreed.number == 15


def test_no_two_processes_or_steps_have_a_seed_in_common() -> None:
    seeds = {seed_of(seed, step, rank) for seed in (0, 1, 42) for step in range(1, 500) for rank in range(16)}
    assert len(seeds) == 3 * 499 * 16 and max(seeds) < 2**63


@dataclass
class Failure:
    exitcode: int
    timestamp: int


@pytest.mark.parametrize(
    ("failures", "code"),
    [
        ([(5, 1), (-9, 1)], 137),  # killed; the other lost it
        ([(5, 1), (3, 1)], 3),
        ([(5, 1), (5, 1)], 5),  # memory, in both
        ([(143, 1), (143, 1)], 143),
        ([(-15, 2), (6, 1)], 6),
        ([(1, 2), (6, 1)], 6),
    ],
)
def test_the_exit_code_is_that_of_who_failed_first(failures: list[tuple[int, int]], code: int) -> None:
    assert exit_code_of([Failure(*failure) for failure in failures]) == code  # type: ignore[misc]


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_gpus(2, "auto")
    check_gpus(5, "cpu")
    with pytest.raises(UsageError, match="2 GPUs here"):
        check_gpus(3, "cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UsageError, match="Add --device cpu"):
        check_gpus(2, "auto")


def test_rank_0_tells_what_all_would_say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a training; another command that happens to run where these variables are set tells its own errors."""
    for rank, told in (("0", True), ("1", False)):
        for name, value in (MEETING | {"RANK": rank}).items():
            monkeypatch.setenv(name, value)
        assert main(["train", "no/such/rows.jsonl"]) == 3
        assert bool(capsys.readouterr().err) is told
        assert main(["runs", "remove", "no/such/run"]) == 2
        assert capsys.readouterr().err


def test_gpus_starts_the_processes(tiny: Path, tmp_path: Path) -> None:
    """The whole way: torchrun, two processes, one run."""
    rows = [{"quote": f"Be kind to sea number {i}.", "tags": ["kindness", "sea"]} for i in range(12)]
    (tmp_path / "quotes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = "--bits 32 --device cpu --max-steps 2 --batch-size 4 --verdict-texts 0 --gpus 2 --json --output run"
    command = [sys.executable, "-m", "florilegium", "train", "quotes.jsonl", "--model", str(tiny), *settings.split()]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)  # one object: only rank 0 prints
    assert (result["processes"], result["steps"]) == (2, 2) and "torch.distributed" not in done.stderr
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()
