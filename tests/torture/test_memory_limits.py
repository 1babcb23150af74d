"""`ulimit -v` at a ladder of sizes: a command ends with 0, or with 5 and one line; never a traceback, never half a folder.

From the first library that does not fit to the last megabyte of a run. Slow: a process a rung."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.tiny import PAGES
from tests.torture.conftest import train_arguments
from tests.warm import Warm

WHOLE = (60, 150, 300, 500, 800, 1200, 1600, 2000, 2500, 3000, 4000)  # MiB that a process may have in all
MORE = (0, 1, 2, 3, 5, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512)  # MiB that it may have beyond its libraries

Make = Callable[..., Path]


def commands(run: Path, tiny: Path, quotes: Path) -> dict[str, Sequence[str | Path]]:
    return {
        "train": train_arguments(tiny, quotes, "out", "--verdict-texts", "8", bits=8, steps=4),
        "generate": ["generate", "Be", "--run", run, "-n", "4", "--max-new-tokens", "8"],
        "evaluate": ["evaluate", run, "--base", "--generations", "4", "--rows", "8", "--general", PAGES],
        "inspect": ["inspect", quotes],
        "report": ["report", run],
        "merged": ["export", run, "--to", "merged", "--output", "out"],
        "gguf": ["export", run, "--to", "gguf-adapter", "--output", "out.gguf"],
    }


NAMES = ("train", "generate", "evaluate", "inspect", "report", "merged", "gguf")


def fault(code: int, err: str) -> str:
    """What is wrong with how a command ended, or an empty string."""
    told = [line for line in err.splitlines() if line.startswith("florilegium: ")]
    if code not in (0, 5) or "Traceback" in err or len(told) != (code == 5):
        return f"exit {code}: {err[-600:]}"
    return "" if code == 0 or "memory" in told[0] else told[0]


def half_written(folder: Path) -> list[str]:
    """Names that only something unfinished has, and folders without what is written into them last."""
    names = [str(path.relative_to(folder)) for path in folder.rglob(".*") if path.name != ".lock"]
    out = folder / "out"
    if out.exists() and not ((out / "config.yaml").is_file() or (out / "export.json").is_file()):
        names.append("out")
    return names


def copied(reference: Make, folder: Path) -> Path:
    folder.mkdir()
    shutil.copytree(reference(), folder / "run")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_beyond_the_libraries(warm: Warm, tiny: Path, quotes: Path, reference: Make, tmp_path: Path, name: str) -> None:
    wrong, codes = [], []
    for megabytes in MORE:
        folder = copied(reference, tmp_path / str(megabytes))
        command = commands(folder / "run", tiny, quotes)[name]
        child = warm.run(command, cwd=folder, before=("more_memory", {"megabytes": megabytes}), seconds=300)
        codes.append(child.code)
        said = fault(child.code, child.err) or ", ".join(half_written(folder))
        if not said and name == "train" and (folder / "out").exists() and child.code == 5:
            resumed = warm.run(["resume", folder / "out"], cwd=folder, seconds=300)
            said = resumed.err if resumed.code else ""
        wrong += [f"{megabytes} MiB more: {said}"] if said else []
        shutil.rmtree(folder)
    print(name, codes)
    assert not wrong, "\n".join(wrong)
    assert codes[-1] == 0 and (codes[0] == 5 or name in ("inspect", "report")), codes


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_in_all(tiny: Path, quotes: Path, reference: Make, tmp_path: Path, name: str) -> None:
    wrong, codes = [], []
    for megabytes in WHOLE:
        folder = copied(reference, tmp_path / str(megabytes))
        command = [str(word) for word in commands(folder / "run", tiny, quotes)[name]]
        done = subprocess.run(
            [sys.executable, "-m", "florilegium", *command],
            cwd=folder, capture_output=True, text=True, errors="replace",
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            preexec_fn=lambda size=megabytes << 20: resource.setrlimit(resource.RLIMIT_AS, (size, size)),
        )  # fmt: skip
        codes.append(done.returncode)
        said = fault(done.returncode, done.stderr) or ", ".join(half_written(folder))
        wrong += [f"{megabytes} MiB: {said}"] if said else []
        shutil.rmtree(folder)
    print(name, codes)
    assert not wrong, "\n".join(wrong)
    assert codes[-1] == 0, codes
