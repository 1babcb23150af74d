"""Completion in fish and zsh, as a person meets it: words are typed, Tab is pressed. bash: `test_completion.py`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from florilegium.cli.commands.completion import completion_script

WORDS = {
    "florilegium tr": "train",
    "florilegium train qu": "quotes.jsonl",
    "florilegium train --lora-r": "--lora-rank",
    "florilegium train --memory l": "lean",
    "florilegium generate --run runs/b": "runs/beta/",
}
# zsh completes in a terminal alone: zpty gives it one. A line that begins with # is never run.
ZSH = """
zmodload zsh/zpty
zpty z zsh -f -i
zpty -w z 'fpath=($PWD $fpath); autoload -Uz compinit; compinit -u -d $PWD/dump; bindkey "^I" complete-word; print REA''DY'
zpty -r -m z seen '*READY*'
for typed in "$@"; do
  zpty -w -n z "$typed"$'\\t'
  zpty -r -m -t z seen '*' ; sleep ${PAUSE}
  zpty -w -n z $'\\C-a#\\n'
done
zpty -w z 'exit'
sleep ${PAUSE}
while zpty -r z line; do print -r -- "$line"; done
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "runs" / "alpha").mkdir(parents=True)
    (tmp_path / "runs" / "beta").mkdir()
    (tmp_path / "quotes.jsonl").write_text("")
    program = tmp_path / "bin" / "florilegium"  # completion looks whether the command is there
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m florilegium "$@"\n')
    program.chmod(0o755)
    return tmp_path


def ask(shell: str, folder: Path, *arguments: str) -> str:
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    environment = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "HOME": str(folder), "PAUSE": "1.5"}
    done = subprocess.run(
        [shell, *arguments], cwd=folder, env=environment, capture_output=True, text=True, errors="replace", timeout=90
    )
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", done.stdout + done.stderr)


def test_fish_completes(folder: Path) -> None:
    (folder / "script").write_text(completion_script("fish"))
    for typed, expected in WORDS.items():
        said = ask("fish", folder, "-N", "-c", f"source script; complete -C '{typed}'")
        assert [line.split("\t")[0] for line in said.splitlines()] == [expected], typed


def test_zsh_completes(folder: Path) -> None:
    (folder / "_florilegium").write_text(completion_script("zsh"))
    (folder / "ask").write_text(ZSH)
    said = ask("zsh", folder, "-f", "ask", *WORDS)
    for typed, expected in WORDS.items():
        assert f"{typed.rsplit(' ', 1)[0]} {expected}" in said, (typed, said)
