"""Several real processes as a launcher starts them, and how their run is compared with another."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from tests.torture.conftest import weights
from tests.warm import Child, Warm


def start(
    warm: Warm,
    given: Sequence[str],
    cwd: Path,
    world: int,
    meeting: dict[str, str],
    faults: Mapping[int, tuple[str, dict[str, Any]]] = MappingProxyType({}),
) -> list[Child]:
    """The processes as a launcher starts them; what goes wrong in which of them (`faults.py`)."""
    places = [{"WORLD_SIZE": str(world), "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)]
    return [warm.start(given, cwd=cwd, env=meeting | place, before=faults.get(i)) for i, place in enumerate(places)]


def wait(children: Sequence[Child], seconds: float = 120) -> list[int]:
    deadline = time.monotonic() + seconds
    return [child.wait(max(1.0, deadline - time.monotonic())) for child in children]


def kill_again_and_again(begin: Callable[[Path], list[Child]], folder: Path, kills: int, seed: int) -> str:
    """Processes begun in a folder each time, of which one is killed at any moment, loading included: all end, and none is
    left behind. Says how fast. Before they have met nobody but their launcher knows of one another: there it ends the
    others by SIGTERM, as torchrun does; later they end by themselves."""
    draw, slowest, early = random.Random(seed), 0.0, 0
    for number in range(kills):
        run = folder / str(number)
        children = begin(run)
        time.sleep(draw.uniform(0.1, 4))
        began, rank = time.monotonic(), draw.randrange(len(children))
        children[rank].send(signal.SIGKILL)
        others = [child for i, child in enumerate(children) if i != rank]
        while any(child.poll() is None for child in others) and time.monotonic() < began + 30:
            time.sleep(0.01)
        if any(child.poll() is None for child in others):
            assert not run.exists(), (number, "they had met, and one waits", [child.err for child in children])
            for child in others:
                child.send(signal.SIGTERM)
            early += 1
        else:
            slowest = max(slowest, time.monotonic() - began)
        codes = wait(children, 30)
        ends = (5,) if run.exists() else (5, 143, -signal.SIGTERM)
        told = (number, rank, codes, [child.err for child in children])
        assert codes[rank] == -9 and all(code in ends for i, code in enumerate(codes) if i != rank), told
        assert not any(child.left_behind() for child in children)
    return f"{kills} kills: {early} before they had met, ended by SIGTERM; the others ended within {slowest:.1f} s"


def saved(run: Path, children: Sequence[Child]) -> None:
    """Returns when a checkpoint is there."""
    deadline = time.monotonic() + 60
    while not list(run.glob("checkpoints/step-*/manifest.json")):
        assert time.monotonic() < deadline and all(c.poll() is None for c in children), [c.err for c in children]
        time.sleep(0.005)


def newest(run: Path) -> int:
    """The step of the newest checkpoint, or -1."""
    return max((int(path.parent.name[5:]) for path in run.glob("checkpoints/step-*/manifest.json")), default=-1)


def train_a_little(warm: Warm, given: Sequence[str], run: Path, cwd: Path, world: int, meeting: dict[str, str]) -> None:
    """These processes until they have saved another step; then one of them is interrupted."""
    before, children = newest(run), start(warm, given, cwd, world, meeting)
    deadline = time.monotonic() + 60
    while newest(run) <= before:
        assert time.monotonic() < deadline and all(c.poll() is None for c in children), [c.err for c in children]
        time.sleep(0.005)
    children[-1].send(signal.SIGINT)
    assert wait(children, 30) == [130] * world, [child.err for child in children]


def metrics(run: Path, name: str) -> list[float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row[name] for row in rows if row.get(name) is not None]


def assert_same(run: Path, other: Path) -> None:
    """The same losses, and the same adapter, to the rounding of float32."""
    for name in ("loss", "eval_loss", "learning_rate", "tokens"):
        assert metrics(run, name) == pytest.approx(metrics(other, name), rel=1e-6), name
    assert metrics(run, "grad_norm") == pytest.approx(metrics(other, "grad_norm"), rel=1e-4)
    ours, theirs = weights(run), weights(other)
    largest = max(float(tensor.abs().max()) for tensor in theirs.values())
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in theirs) <= 1e-5 * largest
