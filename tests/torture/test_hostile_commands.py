"""Every hostile folder through the commands that read it, in processes of their own: exit 4, one line, no traceback,
nothing written, no code run. Slow: some hundred processes a kind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from florilegium.cli.main import main
from tests.torture import hostile_adapters
from tests.torture.conftest import train_arguments
from tests.torture.hostile import copied, split_by
from tests.torture.hostile_kinds import ADAPTERS, BASES
from tests.warm import Child, Warm


def fault(child: Child, codes: tuple[int, ...] = (4,)) -> str:
    """What is wrong with how a command ended, or an empty string."""
    lines = [line for line in child.err.splitlines() if line.startswith("florilegium: ")]
    if child.code not in codes or len(lines) != 1 or "Traceback" in child.err:
        return f"exit {child.code}: {child.err[-300:]}"
    odd = {c for c in child.out + child.err if not c.isprintable() and c not in "\n\r\t"}
    return f"unescaped {odd}" if odd else ""


def test_a_library_that_panics_leaves_one_line(warm: Warm, tiny: Path, tmp_path: Path) -> None:
    """The tokenizers library prints where in its source it was, and with RUST_BACKTRACE sixty lines more."""
    folder = copied(tiny, tmp_path / "model", split_by("(x+x+)+y"))
    (tmp_path / "x.jsonl").write_text(
        "".join(f'{{"quote": "{"x" * 60} {c}.", "tags": ["{c}"]}}\n' for c in "abcdefghijkl")
    )
    command = train_arguments(folder, tmp_path / "x.jsonl", tmp_path / "never")
    child = warm.run(command, cwd=tmp_path, env={"RUST_BACKTRACE": "1"})
    assert not fault(child) and "the tokenizer failed on a text" in child.last_line, child.err
    assert "panicked" not in child.err and "RUST_BACKTRACE" not in child.err and len(child.err.splitlines()) < 5, (
        child.err
    )
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize("kind", [*BASES, *ADAPTERS])
def test_nothing_of_them_is_served(
    tiny: Path,
    reference: Callable[..., Path],
    tmp_path: Path,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`serve` up to where it would answer, in this process: 20 of each kind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("florilegium.serve.run.make_app", lambda *_: pytest.fail("it is served"))
    members = list({**BASES, **ADAPTERS}[kind].items())
    good, wrong = copied(reference() / "adapter", tmp_path / "adapter", hostile_adapters.forget), []
    for number, (what, change) in enumerate(members[:: len(members) // 20]):
        made = copied(tiny if kind in BASES else reference() / "adapter", tmp_path / str(number), change)
        run, model = (good, made) if kind in BASES else (made, tiny)
        code = main(["serve", str(run), "--port", "0", "--model", str(model), "--device", "cpu"])
        out, err = capsys.readouterr()
        lines = [line for line in err.splitlines() if line and not line.startswith("loading PyTorch")]
        if (
            code != 4
            or len(lines) != 1
            or out
            or not lines[0].startswith("florilegium: ")
            or not lines[0].isprintable()
        ):
            wrong.append(f"{what}: exit {code}: {out[-200:]}{err[-300:]}")
        shutil.rmtree(made)
    assert not wrong and number >= 19, wrong
    assert not (tmp_path / "code-ran").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*BASES, *ADAPTERS])
def test_a_run_is_not_evaluated_resumed_or_trained_further_with_them(
    tiny: Path, quotes: Path, reference: Callable[..., Path], tmp_path: Path, kind: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The commands that take a run, in this process: its base is the hostile one, or its adapter."""
    monkeypatch.chdir(tmp_path)
    whole = copied(reference(), tmp_path / "whole", lambda run: hostile_adapters.forget(run / "adapter"))
    stopped = copied(reference(), tmp_path / "stopped", lambda run: shutil.rmtree(run / "adapter"))
    wrong = []
    for number, (what, change) in enumerate({**BASES, **ADAPTERS}[kind].items()):
        if kind in BASES:
            made = copied(tiny, tmp_path / str(number), change)
            commands = [["evaluate", whole, "--model", made, "--data", quotes], ["resume", stopped, "--model", made]]
        else:
            made = copied(reference(), tmp_path / str(number), lambda run, change=change: change(run / "adapter"))  # type: ignore[misc]
            commands = [
                ["evaluate", made, "--model", tiny, "--data", quotes],
                ["train", quotes, "--from", made, "--max-steps", 1, "--output", tmp_path / "never"],
            ]
        for command in commands:
            code = main([str(word) for word in [*command, "--device", "cpu"]])
            out, err = capsys.readouterr()
            told = [line for line in err.splitlines() if line.startswith("florilegium: ")]
            odd = {c for c in out + err if not c.isprintable() and c not in "\n\r\t"}
            right = (2, 4) if command[0] == "resume" else (4,)  # 2: a base that says to be stored in other bits
            if code not in right or len(told) != 1 or odd or "Traceback" in err:
                wrong.append(f"{what}: {command[0]}: exit {code}: {err[-300:]}")
        shutil.rmtree(made)
    assert not wrong, "\n".join(wrong)
    assert not (tmp_path / "never").exists() and not (tmp_path / "code-ran").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", BASES)
def test_hostile_bases(
    warm: Warm, tiny: Path, quotes: Path, reference: Callable[..., Path], tmp_path: Path, kind: str
) -> None:
    adapter = copied(reference() / "adapter", tmp_path / "adapter", hostile_adapters.forget)
    wrong = []
    for number, (what, change) in enumerate(BASES[kind].items()):
        folder = copied(tiny, tmp_path / str(number), change)
        commands = [
            train_arguments(folder, quotes, tmp_path / "never", bits=(32, 8, 4)[number % 3]),
            ["generate", "--run", adapter, "--model", folder, "-n", "1"],
            ["evaluate", adapter, "--model", folder, "--data", quotes],
            ["export", adapter, "--to", "merged", "--model", folder, "--output", tmp_path / "never"],
            ["serve", adapter, "--port", "0", "--model", folder],
        ]
        for command in commands:
            child = warm.run(command, cwd=tmp_path, seconds=120)
            if said := fault(child, (2, 4) if command[0] in ("train", "evaluate") else (4,)):
                wrong.append(f"{what}: {command[0]}: {said}")
        shutil.rmtree(folder)
    assert not wrong, wrong
    assert not (tmp_path / "never").exists() and not (tmp_path / "code-ran").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ADAPTERS)
def test_hostile_adapters(warm: Warm, tiny: Path, reference: Callable[..., Path], tmp_path: Path, kind: str) -> None:
    wrong = []
    for number, (what, change) in enumerate(ADAPTERS[kind].items()):
        folder = copied(reference() / "adapter", tmp_path / str(number), change)
        for command in (
            ["generate", "--run", folder, "--model", tiny, "-n", "1"],
            ["export", folder, "--to", "merged", "--model", tiny, "--output", tmp_path / "never"],
            ["export", folder, "--to", "gguf-adapter", "--model", tiny, "--output", tmp_path / "never.gguf"],
            ["serve", folder, "--port", "0", "--model", tiny],
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
