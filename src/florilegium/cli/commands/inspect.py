"""`florilegium inspect`: what DATA holds, before anything is trained."""

from __future__ import annotations

import argparse
import json

from florilegium.cli.command_parser import Commands, add_command
from florilegium.cli.flags import add_config_flags, config_from_flags
from florilegium.cli.loading import loading_pytorch

SETTINGS = (
    "data", "template", "skip_bad_rows", "fix_encoding", "held_out", "split_by", "max_length", "loss_on", "model",
    "revision", "seed",
)  # fmt: skip


def add(commands: Commands) -> None:
    inspect = add_command(
        commands,
        "inspect",
        "show what DATA holds, what is wrong with it, and how it will be trained",
        "florilegium inspect quotes.jsonl",
        "florilegium inspect quotes.csv --fix-encoding --split-by author",
        usage="florilegium inspect [DATA] [options]",
    )
    add_config_flags(inspect, only=SETTINGS)


def run(flags: argparse.Namespace) -> None:
    config = config_from_flags(flags)
    with loading_pytorch():
        from florilegium.runs.inspect import inspect
    report = inspect(config.data, **{name: getattr(config, name) for name in SETTINGS if name != "data"})
    if flags.json:
        print(json.dumps(report, ensure_ascii=False))
        return
    from florilegium.cli.inspection import print_inspection

    print_inspection(report)
