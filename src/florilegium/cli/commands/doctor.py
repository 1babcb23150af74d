"""`florilegium doctor`: what is installed, what works, what to paste into a bug report."""

from __future__ import annotations

import argparse

from florilegium.cli.command_parser import Commands, add_command
from florilegium.cli.loading import loading_pytorch
from florilegium.cli.screen import json_line, on_screen, print_line
from florilegium.errors import counted, redact


def add(commands: Commands) -> None:
    doctor = add_command(
        commands,
        "doctor",
        "check the installation: Python, torch, GPU, bitsandbytes, compiler, disk",
        "florilegium doctor",
        "florilegium doctor --hub",
    )
    doctor.add_argument("--hub", action="store_true", help="also ask whether the Hugging Face Hub can be reached")


def run(flags: argparse.Namespace) -> None:
    from florilegium.runs.environment import check_environment

    with loading_pytorch():
        checks = check_environment(hub=flags.hub)
    wrong = [check for check in checks if check.fix]
    if flags.json:
        print_line(redact(json_line({"checks": [check.to_json() for check in checks], "problems": len(wrong)})))
        return
    for check in checks:
        for line in (f"{check.name:<13} {check.found}", *([f"{'':<13} {check.fix}"] if check.fix else [])):
            print_line(on_screen(redact(line), indent=14))
    print_line(f"\n{counted(len(wrong), 'problem')} found")
