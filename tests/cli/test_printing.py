"""Printing never ends a command: whatever the locale, the width, a pipe that is closed early, the letters.

Real processes. The whole table is slow (some 30 commands that import PyTorch); `runs`, which does not, stands for it in the
quick tests."""

from __future__ import annotations

import fcntl
import os
import pty
import shutil
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import florilegium
from tests.tiny import PAGES, save_tiny

LOCALES = {
    "C": {"LC_ALL": "C"},
    "POSIX without UTF-8": {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "latin-1": {"LC_ALL": "C", "PYTHONIOENCODING": "latin-1"},
    "utf-8": {"LC_ALL": "C.UTF-8"},
}
WIDTHS = (1, 20, 60, 80)
WAYS = ("file", "closed early", "terminal", "terminal closed early")
ODD = "caf\u00e9 \u6570 \U0001f600 \x1b[31mred\x07 \u202eleft"
NAME = "mine \u6570 \U0001f600"  # of a run
COMMANDS: dict[str, list[str]] = {
    "generate": ["generate", "Be \u2603", "-n", "2", "--run", NAME, "--max-new-tokens", "12", "--base"],
    "generate --json": ["generate", "Be \u2603", "-n", "2", "--run", NAME, "--max-new-tokens", "12", "--json"],
    "evaluate": ["evaluate", NAME, "--generations", "3", "--rows", "3", "--base", "--general", str(PAGES)],
    "report": ["report", NAME],
    "runs": ["runs"],
    "inspect": ["inspect", "rows.jsonl"],
    "doctor": ["doctor"],
    "train": ["train", "rows.jsonl", "--model", "base", "--bits", "32", "--max-steps", "2", "--device", "cpu"],
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rows and a run of them, both of odd letters."""
    folder = tmp_path_factory.mktemp("home")
    save_tiny(folder / "base", heads=4, head_dim=16)
    words = ["sea", "home", "river", "boat", "hope", "time"]
    rows = [f'{{"quote": "Be kind to the {a}, {b} {ODD}.", "tags": ["{a} \u6570"]}}' for a in words for b in words]
    text = "\n".join(row.replace("\x1b", "\\u001b").replace("\x07", "\\u0007") for row in rows)
    (folder / "rows.jsonl").write_text(text + "\n", encoding="utf-8")
    (folder / "runs").mkdir()
    florilegium.train(
        folder / "rows.jsonl", model=str(folder / "base"), output=str(folder / "runs" / NAME), max_steps=2, bits=32,
        device="cpu", split_by="random", verdict_texts=0,
    )  # fmt: skip
    return folder


def table(names: list[str]) -> list[tuple[str, str, int, str]]:
    """Each command with each locale, width and way of reading; every pair of these somewhere."""
    return [
        (name, where, WIDTHS[(i + j) % 4], WAYS[(i // 2 - j) % 4])
        for i, name in enumerate(names)
        for j, where in enumerate(LOCALES)
    ]


def run(home: Path, name: str, where: str, width: int, way: str, folder: Path) -> tuple[int, str]:
    """Exit code, and what came on stderr (on a terminal: what was read of both)."""
    work = shutil.copytree(home, folder / "work")
    command = [sys.executable, "-m", "florilegium", *COMMANDS[name]]
    if "PYTHONUTF8" in LOCALES[where]:  # a name of other letters cannot be opened there at all
        (work / "runs" / NAME).rename(work / "runs" / "mine")
        command = ["mine" if word == NAME else word for word in command]
    environment = {k: v for k, v in os.environ.items() if k not in ("LANG", "LC_ALL", "PYTHONIOENCODING")}
    environment |= LOCALES[where] | {"COLUMNS": str(width), "TERM": "xterm"}
    given: dict[str, Any] = {"cwd": work, "env": environment, "stdin": subprocess.DEVNULL}
    if way.startswith("terminal"):
        return on_terminal(
            lambda end: subprocess.Popen(command, stdout=end, stderr=end, **given), width, "closed" in way
        )
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **given)
    if way == "closed early" and process.stdout:
        process.stdout.close()
        process.stdout = None
    _, err = process.communicate(timeout=300)
    return process.returncode, err.decode("utf-8", "replace")


def on_terminal(start: Callable[[int], subprocess.Popen[bytes]], width: int, is_closed: bool) -> tuple[int, str]:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    process, seen = start(theirs), b""
    os.close(theirs)
    try:
        while piece := os.read(ours, 1 << 16):
            seen += piece
            if is_closed:
                break
    except OSError:  # the other end is closed: the process has ended
        pass
    os.close(ours)
    return process.wait(300), seen.decode("utf-8", "replace")


def check(home: Path, name: str, where: str, width: int, way: str, folder: Path) -> None:
    code, err = run(home, name, where, width, way, folder)
    assert code == 0 and "Traceback" not in err and "Exception ignored" not in err, err[-2000:]
    assert "\x1b[31mred" not in err and "\x07" not in err, "a row reached the terminal as it is"


@pytest.mark.parametrize(("name", "where", "width", "way"), table(["runs"]))
def test_printing_never_ends_a_command(home: Path, tmp_path: Path, name: str, where: str, width: int, way: str) -> None:
    check(home, name, where, width, way, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "where", "width", "way"), table([name for name in COMMANDS if name != "runs"]))
def test_printing_never_ends_any_command(
    home: Path, tmp_path: Path, name: str, where: str, width: int, way: str
) -> None:
    check(home, name, where, width, way, tmp_path)
