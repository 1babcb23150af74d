"""`florilegium train`: settings and rows first, which need no torch; then the run, and what to do with it."""

from __future__ import annotations

import argparse

from florilegium.cli.command_parser import Commands, add_command
from florilegium.cli.commands.estimate import add_gpu, tell
from florilegium.cli.flags import COMMON, add_config_flags, add_gpus, config_from_flags, given_settings, is_to_launch
from florilegium.cli.loading import RowCounter, loading_pytorch
from florilegium.cli.notify import add_notify
from florilegium.cli.screen import print_line
from florilegium.config.processes import is_first_process
from florilegium.errors import UsageError
from florilegium.storage.paths import tilde
from florilegium.storage.run_lock import refuse_taken


def add(commands: Commands) -> None:
    train = add_command(
        commands,
        "train",
        "fine-tune a model on quotes with tags",
        "florilegium train",
        "florilegium train quotes.jsonl --model bigscience/bloom-560m",
        'florilegium train poems.csv --template "{poem} ->: {mood}" --epochs 5',
        "florilegium train --config run.yaml --bits 4 --lora-rank 32",
        usage="florilegium train [DATA] [--model MODEL] [options]",
    )
    train.common = COMMON
    train.add_argument("--config", metavar="FILE", help="settings in YAML; flags win over it")
    train.add_argument(
        "--print-config", action="store_true", help="print the settings as a file that --config reads, and exit"
    )
    train.add_argument(
        "--dry-run",
        action="store_true",
        help="show what the run would take, and exit: no weights are downloaded or read",
    )
    add_gpu(train)
    add_gpus(train)
    add_notify(train)
    add_config_flags(train)


def run(flags: argparse.Namespace) -> None:
    config = config_from_flags(flags)
    if flags.print_config:
        from florilegium.config import dump_config

        print_line(dump_config(config), end="")
        return
    if not flags.dry_run and config.output:
        refuse_taken(tilde(config.output), force=config.force)
    from florilegium.data import read_rows_of

    # Read before torch is imported: most mistakes are in the rows or their name, and are told in half a second.
    counter = RowCounter(config.data) if is_first_process() else None
    rows = read_rows_of(config, progress=counter)
    if counter:
        counter.done()
    if flags.dry_run or flags.gpu:
        if not flags.dry_run:
            raise UsageError(
                "--gpu names a card for an estimate", "Add --dry-run; the run itself takes the card that is here"
            )
        tell(config, rows, flags, gpus=1 if flags.gpus is None else flags.gpus)
        return
    if is_to_launch(flags):
        with loading_pytorch():
            from florilegium.runs.launch import check_gpus, launch

            check_gpus(flags.gpus, config.device)
        launch(flags.gpus, flags.arguments)
        return
    with loading_pytorch():
        from florilegium.cli.progress import TerminalView
        from florilegium.cli.trained import show_trained
        from florilegium.runs.train import train_config
    view = TerminalView()
    try:
        trained = train_config(config, view, rows, config.bits if "bits" in given_settings(flags) else None)
        if is_first_process():
            show_trained(trained, flags.json)
    finally:
        view.stop()
