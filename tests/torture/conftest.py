"""What the torture tests share: the amount (a bounded share, or all with FLORILEGIUM_TORTURE=1), the warm server, rows,
the figures."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed import TCPStore

from tests.torture.figures import Figures
from tests.warm import Warm, shared

ALL = os.environ.get("FLORILEGIUM_TORTURE") == "1"
QUOTES = [
    {"quote": f"{a} {b} {c}.", "tags": [b, c]}
    for a in ("Be kind to", "Time is", "Leave open", "The sea and")
    for b in ("hope", "kindness", "river")
    for c in ("home", "sea", "door", "time")
]


@pytest.fixture(scope="session")
def amount() -> Callable[[int, int], int]:
    """`amount(share, all)`: how many, in CI and in `make torture`."""
    return lambda share, everything: everything if ALL else share


@pytest.fixture(scope="session")
def warm() -> Warm:
    return shared()


@pytest.fixture
def meeting() -> Iterator[dict[str, str]]:
    """Where the processes meet: at their launcher's, as with torchrun, so that it outlives any of them."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    yield address | {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    del store


@pytest.fixture(scope="session")
def quotes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "quotes.jsonl"
    path.write_text("".join(json.dumps(q) + "\n" for q in QUOTES))
    return path


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Iterator[Callable[[str, str], None]]:
    """`figure(line, text)` prints what a test reached and keeps it for RELIABILITY.md."""
    began = time.monotonic()
    figures = Figures.at(request.config.rootpath)

    def reached(line: str, text: str) -> None:
        print(f"\n{line}: {text}")
        figures.add(line, text, time.monotonic() - began, ALL)

    yield reached


def train_arguments(
    tiny: Path, quotes: Path, output: Path | str, *more: str, bits: int = 32, steps: int = 12
) -> list[str]:
    """A run of 12 steps that saves every two and looks every six; what befalls its verdict: tests/runs/test_last_steps.py."""
    arguments = [
        "train",
        quotes,
        "--model",
        tiny,
        "--output",
        output,
        "--bits",
        bits,
        "--max-steps",
        steps,
        "--batch-rows",
        8,
    ]
    arguments += ["--save-every", 2, "--evaluate-every", 6, "--compute", "float32", "--verdict-texts", 0, *more]
    return [str(a) for a in arguments]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "adapter" / "adapter_model.safetensors")


def different_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> int:
    """How many numbers differ in any bit."""
    assert a.keys() == b.keys()
    return sum(int((a[k].view(torch.int32) != b[k].view(torch.int32)).sum()) for k in a)


@pytest.fixture(scope="session")
def reference(warm: Warm, tiny: Path, quotes: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The run that nothing befell, one for each number of bits and steps."""
    made: dict[tuple[int, int, tuple[str, ...]], Path] = {}

    def run(bits: int = 32, steps: int = 12, *more: str) -> Path:
        if (bits, steps, more) not in made:
            folder = tmp_path_factory.mktemp("reference")
            child = warm.run(train_arguments(tiny, quotes, folder / "run", *more, bits=bits, steps=steps), cwd=folder)
            assert child.code == 0, child.err
            made[bits, steps, more] = folder / "run"
        return made[bits, steps, more]

    return run
