"""`florilegium completion`: a script that completes commands, flags, choices, files and the runs in runs/.

Which flag takes a file and which a run is read off its metavar, so that a new flag is completed without a word here."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from florilegium.cli.command_parser import Commands, add_command

if TYPE_CHECKING:
    from florilegium.cli.command_parser import CommandParser

SHELLS = ("bash", "zsh", "fish", "tcsh")
FILES, FOLDERS, RUNS = ("DATA", "FILE"), ("FOLDER", "MODEL"), ("RUN", "RUN_B")
LIST_RUNS = "ls -d runs/*/ 2>/dev/null"


def add(commands: Commands) -> None:
    completion = add_command(
        commands,
        "completion",
        "print a completion script for your shell",
        'eval "$(florilegium completion bash)"                    # in ~/.bashrc',
        "florilegium completion zsh > ~/.zfunc/_florilegium       # a folder of fpath",
        "florilegium completion fish | source                     # in config.fish",
    )
    completion.add_argument("shell", choices=SHELLS, help="the shell that you type in")


def run(flags: argparse.Namespace) -> None:
    print(completion_script(flags.shell))


def completion_script(shell: str) -> str:
    """The script for `shell`, as text."""
    import shtab

    from florilegium.cli.parser import build_parser

    parser = build_parser()
    for action in _actions(parser):
        if action.metavar in FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # shtab reads it off argparse's own object
        elif action.metavar in FOLDERS:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif action.metavar in RUNS:
            action.complete = shtab.cmd(LIST_RUNS)  # type: ignore[attr-defined]
        elif isinstance(action.metavar, str) and action.metavar.startswith("{"):
            action.choices = action.metavar.strip("{}").split(",")  # the settings', which `make_config` checks
    script: str = shtab.complete(parser, shell=shell)
    return script


def _actions(parser: CommandParser) -> list[argparse.Action]:
    """The arguments of all commands."""
    found = []
    for action in parser._actions:
        choices = action.choices if isinstance(action, argparse._SubParsersAction) else {}
        found += [action, *(own for command in choices.values() for own in command._actions)]
    return found
