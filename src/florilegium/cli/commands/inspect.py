"""`florilegium inspect`: what DATA holds, before anything is trained."""

from __future__ import annotations

import argparse
import contextlib

from florilegium.cli.command_parser import Commands, add_command
from florilegium.cli.flags import add_config_flags, config_from_flags
from florilegium.cli.loading import RowCounter, loading_pytorch
from florilegium.cli.screen import json_line, print_line
from florilegium.config import TrainConfig

SETTINGS = (
    "data", "template", "text_column", "tags_column", "tags_separator", "join_tag_columns", "split",
    "held_out_file", "skip_bad_rows", "fix_encoding", "held_out", "split_by", "split_on", "max_length",
    "loss_on", "chat", "model", "revision", "seed",
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
    inspect.add_argument("--tokens", action="store_true", help="the tokens of three rows too (imports PyTorch)")
    inspect.add_argument("--strict", action="store_true", help="the first bad row is an error (exit 3)")
    add_config_flags(inspect, only=SETTINGS)


def run(flags: argparse.Namespace) -> None:
    config = config_from_flags(flags)
    from florilegium.runs.inspect import inspection

    # whoever names a model asks how it cuts the texts
    tokens = flags.tokens or config.chat or config.model != "seedling"
    settings = {name: getattr(config, name) for name in SETTINGS}
    asked = TrainConfig(**{**settings, "skip_bad_rows": not flags.strict})
    with loading_pytorch() if tokens else contextlib.nullcontext():
        counter = RowCounter(config.data)
        report = inspection(asked, tokens, counter)
        counter.done()
    if flags.json:
        print_line(json_line(report.to_json()))
        return
    from florilegium.cli.inspection import print_inspection

    print_inspection(report)
