"""Completion in bash, fish and zsh, as a person meets it: words are typed, Tab is pressed."""

from __future__ import annotations

import os
import pty
import re
import select
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


def read_until(terminal: int, awaited: str, seen: str = "") -> str:
    """What the shell shows, until `awaited` is in it, or nothing comes for a minute."""
    while awaited not in seen and select.select([terminal], [], [], 60)[0]:
        try:
            seen += os.read(terminal, 4096).decode("utf-8", "replace")
        except OSError:  # the shell is gone
            break
    return seen


def test_bash_completes(folder: Path) -> None:
    """An interactive bash in a terminal of its own, with the line that the help tells people to put into ~/.bashrc."""
    if shutil.which("bash") is None:
        pytest.skip("there is no bash")
    told = ['bind "set enable-bracketed-paste off"', 'eval "$(florilegium completion bash)"', 'PS1="READY> "', ""]
    (folder / "rc").write_text("\n".join(told))
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "HOME": str(folder), "TERM": "dumb"}
    shell = subprocess.Popen(
        ["bash", "--noprofile", "--rcfile", str(folder / "rc"), "-i"],
        cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
    )  # fmt: skip
    try:
        os.close(theirs)
        assert "READY> " in read_until(ours, "READY> ")
        for typed, expected in WORDS.items():
            os.write(ours, f"{typed}\t".encode())
            line = f"{typed.rsplit(' ', 1)[0]} {expected}"
            seen = read_until(ours, line)
            assert line in seen, (typed, seen)
            os.write(ours, b"\x15echo next\n")  # Ctrl-U: what is completed is never run
            assert "next\r\n" in read_until(ours, "next\r\nREADY> "), typed
    finally:
        shell.kill()
        shell.wait()
        os.close(ours)


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
