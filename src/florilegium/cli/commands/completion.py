"""`florilegium completion`: a script that completes commands, flags and choices."""

from __future__ import annotations

import argparse

from florilegium.cli.command_parser import Commands, add_command


def add(commands: Commands) -> None:
    completion = add_command(
        commands,
        "completion",
        "print a completion script for your shell",
        'eval "$(florilegium completion bash)"        (in ~/.bashrc)',
        "florilegium completion zsh > ~/.zfunc/_florilegium",
    )
    completion.add_argument("shell", choices=["bash", "zsh", "tcsh"])


def run(flags: argparse.Namespace) -> None:
    import shtab

    from florilegium.cli.parser import build_parser

    print(shtab.complete(build_parser(), shell=flags.shell))
