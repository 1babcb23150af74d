"""Completion as a shell does it: commands, flags, choices, files, runs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from florilegium.cli.commands import COMMANDS
from florilegium.cli.commands.completion import SHELLS, completion_script

# What bash does when Tab is pressed: it fills COMP_WORDS and calls the function that `complete` named.
ASK = """
source ./script
function=$(complete -p florilegium | sed 's/.*-F \\([^ ]*\\).*/\\1/')
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); $function
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("bash") is None:
        pytest.skip("there is no bash")
    folder = tmp_path_factory.mktemp("shell")
    (folder / "script").write_text(completion_script("bash"))
    for name in ("alpha", "beta"):
        (folder / "runs" / name).mkdir(parents=True)
    (folder / "quotes.jsonl").write_text("")
    return folder


def completed(shell: Path, *words: str) -> list[str]:
    command = ["bash", "--norc", "-c", ASK, "bash", "florilegium", *words]
    done = subprocess.run(command, cwd=shell, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    "words,expected",
    [
        (["tr"], ["train"]),
        (["run"], ["runs"]),
        (["train", "qu"], ["quotes.jsonl"]),
        (["train", "--lora-r"], ["--lora-rank"]),
        (["train", "--memory", "l"], ["lean"]),
        (["evaluate", ""], ["runs/alpha/", "runs/beta/"]),
        (["generate", "--run", "runs/b"], ["runs/beta/"]),
        (["runs", "ren"], ["rename"]),
        (["generate", "--prompts", "q"], ["quotes.jsonl"]),
    ],
)
def test_bash_completes(shell: Path, words: list[str], expected: list[str]) -> None:
    assert completed(shell, *words) == expected


@pytest.mark.parametrize("name", SHELLS)
def test_a_script_knows_every_command_and_no_alias(name: str) -> None:
    script = completion_script(name)
    assert "learning-rate" in script and all(command in script for command in COMMANDS)
    assert "no-skip-bad-rows" not in script and "lora_r" not in script
