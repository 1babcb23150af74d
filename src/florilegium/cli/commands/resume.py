"""`florilegium resume`: a run that was stopped, from its newest checkpoint."""

from __future__ import annotations

import argparse
from dataclasses import fields

from florilegium.cli.command_parser import Commands, add_command
from florilegium.cli.flags import add_config_flags, add_gpus, add_run, given_run, given_settings, is_to_launch
from florilegium.cli.loading import loading_pytorch
from florilegium.cli.notify import add_notify
from florilegium.config import TrainConfig
from florilegium.config.processes import is_first_process
from florilegium.runs.changes import CHANGEABLE


def add(commands: Commands) -> None:
    resume = add_command(
        commands,
        "resume",
        "resume a stopped run",
        "florilegium resume",
        "florilegium resume runs/NAME --learning-rate 1e-4 --max-steps 500",
        usage="florilegium resume [RUN] [options that may change]",
    )
    add_run(resume, "a run's folder or name; default: the newest unfinished one")
    add_gpus(resume)
    add_notify(resume)
    names = [f.name for f in fields(TrainConfig) if f.name not in ("data", "output", "force")]
    # The others are understood, so that one that differs is refused with the reason, and never ignored.
    add_config_flags(resume, only=names, hidden=[name for name in names if name not in CHANGEABLE])


def run(flags: argparse.Namespace) -> None:
    if is_to_launch(flags):
        with loading_pytorch():
            from florilegium.runs.launch import check_gpus, launch
            from florilegium.runs.resume import device_of, unfinished

            check_gpus(flags.gpus, device_of(unfinished(given_run(flags)), given_settings(flags)))
        launch(flags.gpus, flags.arguments)
        return
    with loading_pytorch():
        from florilegium.cli.progress import TerminalView
        from florilegium.cli.trained import show_trained
        from florilegium.runs.resume import resume
    view = TerminalView()
    try:
        trained = resume(given_run(flags), view=view, **given_settings(flags))
        if is_first_process():
            show_trained(trained, flags.json)
    finally:
        view.stop()
