"""Libraries that are no Python fail in their own ways: a panic that is no Exception, memory that is refused in twenty
phrasings, a process that ends while it is imported. Each is one line and its exit code, wherever it happens."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any, cast

import numpy
import pyarrow
import pytest
import torch

from florilegium.cli.commands import COMMANDS
from florilegium.cli.main import main
from florilegium.storage import platform

# What the tokenizers library does at a pattern that goes back for ever.
PANIC = """
from tokenizers import Regex, pre_tokenizers
def panic():
    pre_tokenizers.Split(Regex("(x+x+)+y"), "isolated").pre_tokenize_str("x" * 60)
"""


def panic_in(package: str) -> Callable[[], object]:
    """A function of that package, in which a library panics."""
    module: dict[str, Any] = {"__name__": f"{package}.somewhere"}
    exec(PANIC, module)
    return cast(Callable[[], object], module["panic"])


def outcome(
    fails: Callable[[], object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str]:
    """The exit code and the one line of a command in which `fails` is called."""
    monkeypatch.setattr(COMMANDS["runs"], "run", lambda _: fails())
    code = main(["runs"])
    lines = [line for line in capsys.readouterr().err.splitlines() if line and "panicked" not in line]
    told = [line for line in lines if line.startswith("florilegium: ")]
    assert len(told) == 1 and not any("Traceback" in line for line in lines), lines
    return code, told[0]


@pytest.mark.parametrize(
    ("package", "fix"),
    [
        ("transformers", "tokenizer.json"),
        ("huggingface_hub", "HF_HUB_DISABLE_XET=1"),
        ("safetensors", "See where with --debug"),
    ],
)
def test_a_panic_anywhere_is_one_line(
    package: str, fix: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, line = outcome(panic_in(package), monkeypatch, capsys)
    assert code == 4 and f"the library {package} crashed (" in line and fix in line


def no_room_for_an_import() -> None:
    try:
        raise OSError("libtorch_cpu.so: failed to map segment from shared object")
    except OSError as error:
        raise ImportError("Importing the numpy C-extensions failed.\n\nPlease read this") from error


def no_thread() -> None:
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize(
    ("fails", "wanted"),
    [
        (lambda: torch.empty(2**59, dtype=torch.uint8), "(576460752303423488 bytes more were wanted)"),
        (lambda: numpy.empty(2**59, dtype=numpy.uint8), "(512. PiB more were wanted)"),
        (lambda: pyarrow.allocate_buffer(2**59), "(576460752303423488 bytes more were wanted)"),
        (lambda: bytearray(2**59), "memory ran out."),
        (no_room_for_an_import, "memory ran out."),
        (no_thread, "memory ran out."),
    ],
)
def test_a_full_memory_anywhere_says_what_was_wanted(
    fails: Callable[[], object], wanted: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, line = outcome(fails, monkeypatch, capsys)
    assert code == 5 and wanted in line and "ulimit -v" in line, line


def test_a_library_that_fails_anyhow_under_a_limit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """matplotlib's import gives CPython no reason at all where it is refused memory."""

    def fails() -> None:
        raise SystemError("error return without exception set")

    monkeypatch.setattr("florilegium.cli.main.largest_address_space", lambda: 1 << 32)
    assert outcome(fails, monkeypatch, capsys)[0] == 5
    monkeypatch.setattr("florilegium.cli.main.largest_address_space", lambda: None)
    assert main(["runs"]) == 1 and "Traceback" in capsys.readouterr().err  # ours, and to be reported


@pytest.mark.skipif(platform.resource is None, reason="this system has no such limit")
def test_too_few_addresses_for_the_libraries() -> None:
    """Some of them end the process then: it is said before they are imported."""
    command = f"ulimit -v {2 << 20}; exec {sys.executable} -m florilegium train --model seedling --output never"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    told = [line for line in done.stderr.splitlines() if line.startswith("florilegium: ")]
    assert done.returncode == 5 and len(told) == 1 and "limited to 2.0 GiB of addresses by ulimit -v" in told[0]
    assert "loading PyTorch" not in done.stderr
