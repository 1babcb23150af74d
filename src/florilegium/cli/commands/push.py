"""`florilegium push`: an adapter or an export onto the Hugging Face Hub."""

from __future__ import annotations

import argparse

from florilegium.cli.command_parser import Commands, add_command
from florilegium.cli.loading import loading_pytorch
from florilegium.cli.screen import json_line, print_line


def add(commands: Commands) -> None:
    push = add_command(
        commands,
        "push",
        "upload an adapter or an export to the Hugging Face Hub, with its card",
        "florilegium push latest USER/quotes-lora --dry-run",
        "florilegium push runs/NAME/exports/gguf-q8_0 USER/quotes-gguf --private",
    )
    push.add_argument("run", metavar="RUN", help="a run, an adapter folder, or a folder that export made; or 'latest'")
    push.add_argument("repo", metavar="REPO", help="repository on the Hub, USER/NAME; made where it is not there")
    push.add_argument("--private", action="store_true", help="make the repository private, if it is new")
    push.add_argument("--dry-run", action="store_true", help="show each file and the card, send nothing")


def run(flags: argparse.Namespace) -> None:
    from florilegium.storage.run_directory import find_run

    find_run(flags.run)  # before torch is imported
    with loading_pytorch():
        from florilegium.cli.progress import TerminalView
        from florilegium.runs.push import push
    view = TerminalView()
    try:
        done = push(flags.run, flags.repo, private=flags.private, dry_run=flags.dry_run, view=view)
    finally:
        view.stop()
    sizes = done.parcel.sizes()
    if flags.json:
        report = {"repo": done.repo, "private": done.private, "files": sizes, "sent": bool(done.address)}
        print_line(json_line({**report, "address": done.address, "card": done.parcel.card}))
        return
    for name, size in sizes.items():
        print_line(f"{size:>15,}  {name}")
    if flags.dry_run:
        print_line(f"\nThe card:\n\n{done.parcel.card}\nNothing was sent. Without --dry-run this goes to {done.repo}.")
        return
    print_line(f"\n{done.address}")
