"""Every hostile folder through the commands that read it, in processes of their own: exit 4, one line, no traceback,
nothing written, no code run. Slow: some hundred processes a kind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.torture import hostile, hostile_adapters
from tests.torture.conftest import train_arguments
from tests.torture.hostile import Change, copied
from tests.torture.warm import Child, Warm

BASES = ("NOT_WHOLE", "LEADS_ELSEWHERE", "WANTS_CODE", "NUMBERS", "OUT_OF_BOUNDS")
ADAPTERS = ("OVERWRITES", "NO_LORA", "NO_FACTS")


def fault(child: Child, codes: tuple[int, ...] = (4,)) -> str:
    """What is wrong with how a command ended, or an empty string."""
    lines = [line for line in child.err.splitlines() if line.startswith("florilegium: ")]
    if child.code not in codes or len(lines) != 1 or "Traceback" in child.err:
        return f"exit {child.code}: {child.err[-300:]}"
    odd = {c for c in child.out + child.err if not c.isprintable() and c not in "\n\r\t"}
    return f"unescaped {odd}" if odd else ""


@pytest.mark.slow
@pytest.mark.parametrize("kind", BASES)
def test_hostile_bases(
    warm: Warm, tiny: Path, quotes: Path, reference: Callable[..., Path], tmp_path: Path, kind: str
) -> None:
    adapter = copied(reference() / "adapter", tmp_path / "adapter", hostile_adapters.forget)
    members: dict[str, Change] = getattr(hostile, kind)
    wrong = []
    for number, (what, change) in enumerate(members.items()):
        folder = copied(tiny, tmp_path / str(number), change)
        commands = [
            train_arguments(folder, quotes, tmp_path / "never", bits=(32, 8, 4)[number % 3]),
            ["generate", "--run", adapter, "--model", folder, "-n", "1"],
            ["evaluate", adapter, "--model", folder, "--data", quotes],
        ]
        for command in commands:
            child = warm.run(command, cwd=tmp_path, seconds=120)
            if said := fault(child, (4,) if command[0] != "evaluate" else (2, 4)):
                wrong.append(f"{what}: {command[0]}: {said}")
        shutil.rmtree(folder)
    assert not wrong, wrong
    assert not (tmp_path / "never").exists() and not (tmp_path / "code-ran").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ADAPTERS)
def test_hostile_adapters(warm: Warm, tiny: Path, reference: Callable[..., Path], tmp_path: Path, kind: str) -> None:
    wrong = []
    for number, (what, change) in enumerate(getattr(hostile_adapters, kind).items()):
        folder = copied(reference() / "adapter", tmp_path / str(number), change)
        for command in (
            ["generate", "--run", folder, "--model", tiny, "-n", "1"],
            ["export", folder, "--to", "merged", "--model", tiny, "--output", tmp_path / "never"],
        ):
            if said := fault(warm.run(command, cwd=tmp_path, seconds=120)):
                wrong.append(f"{what}: {command[0]}: {said}")
        shutil.rmtree(folder)
    assert not wrong, wrong
    assert not (tmp_path / "never").exists() and not (tmp_path / "code-ran").exists()


def tensors_of_the_base(run: Path) -> None:
    """A checkpoint with the base's embedding in it, and sums that fit."""
    import hashlib

    from safetensors.torch import load_file, save_file

    for folder in run.glob("checkpoints/step-*"):
        tensors = load_file(folder / "adapter.safetensors")
        name = "base_model.model.transformer.word_embeddings.weight"
        save_file({**tensors, name: tensors[min(tensors)].new_zeros(400, 32)}, folder / "adapter.safetensors")
        data, manifest = (folder / "adapter.safetensors").read_bytes(), folder / "manifest.json"
        values = json.loads(manifest.read_text())
        entry = values["files"]["adapter.safetensors"]
        entry |= {"sha256": hashlib.sha256(data).hexdigest()}
        entry |= {key: len(data) for key in entry if key in ("size", "bytes")}
        manifest.write_text(json.dumps(values))
    shutil.rmtree(run / "adapter")


@pytest.mark.slow
def test_a_hostile_run_is_not_resumed_and_its_report_is_bounded(
    warm: Warm, reference: Callable[..., Path], tmp_path: Path
) -> None:
    run = copied(reference(), tmp_path / "run", tensors_of_the_base)
    assert not fault(warm.run(["resume", run], cwd=tmp_path))
    logged = copied(reference(), tmp_path / "logged", lambda folder: None)
    with (logged / "metrics.jsonl").open("ab") as file:
        row = json.dumps({"step": 7, "loss": 1.0, "note": "\x1b[31m" + "x" * 900}).encode() + b"\n"
        for _ in range(300):
            file.write(row * 1000)
    log = tmp_path / "peak"
    child = warm.run(["report", logged], cwd=tmp_path, before=("report_peak", {"log": str(log)}), seconds=300)
    assert child.code == 0 and int(log.read_text()) < 600 << 20, (child.code, child.err[-500:], log.read_text())
