"""What `generate` and `chat` share: their flags, the model that they load, and a quote as it is shown."""

from __future__ import annotations

import argparse
import secrets
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from florilegium.cli.command_parser import CommandParser
from florilegium.cli.flags import given_run
from florilegium.cli.loading import ModelLoading, loading_pytorch
from florilegium.cli.screen import json_line, print_line
from florilegium.config import SamplingSettings
from florilegium.errors import UsageError
from florilegium.storage.run_directory import adapter_folder, find_run

if TYPE_CHECKING:
    from florilegium.generation import Generated
    from florilegium.generation.tuned import Tuned

DEFAULTS = SamplingSettings()
_SAMPLING = ("max_new_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "seed")


def add_model_and_sampling(command: CommandParser) -> None:
    """The flags of a command that loads a run and samples from it."""
    command.add_argument("--model", metavar="MODEL", help="path of the base model, if it has moved")
    _add_sampling(command)
    add_where_it_runs(command)
    add_int8_head(command)


def _add_sampling(generate: CommandParser) -> None:
    add = generate.add_argument_group("sampling").add_argument
    add("--temperature", type=float, metavar="X", help="0 = greedy decoding (the base's own, else 0.7)")
    add("--top-p", type=float, metavar="X", help="nucleus sampling (0.9)")
    add("--top-k", type=int, metavar="N", help="sample from the N most likely tokens; 0 = all (0)")
    add("--repetition-penalty", type=float, metavar="X", help="values above 1 penalise repetition (1)")
    add("--max-new-tokens", type=int, metavar="N", help="maximum new tokens (100)")
    add("--seed", type=int, metavar="N", help="same seed, same texts; default: a new one each time")


def add_where_it_runs(command: CommandParser) -> None:
    command.add_argument(
        "--bits", type=int, choices=[8, 4, 16, 32], help="base-weight precision; default: as it was trained"
    )
    command.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="where it runs (auto)")


def add_int8_head(command: CommandParser) -> None:
    command.add_argument(
        "--int8-head", action="store_true", help="on a GPU: write by an int8 copy of the head; prints what its loss is"
    )


def kernels_for(flags: argparse.Namespace) -> str:
    """The kernels by which texts are written. Raises UsageError where a head in int8 cannot be had; torch is there."""
    if not flags.int8_head:
        return "auto"
    from florilegium.model import choose_device, fast_paths

    _, reason = fast_paths.select_kernels("auto,int8-head", choose_device(flags.device), flags.bits or 8)
    if reason:
        raise UsageError(f"--int8-head: {reason}", "Leave it out")
    return "auto,int8-head"


def say_notes(tuned: Tuned) -> None:
    """What to know before using it, on stderr."""
    notes = list(tuned.notes)
    if "int8-head" in tuned.loaded.kernels:
        from florilegium.evaluation.head_gap import head_gap

        notes.append(head_gap(tuned.loaded).sentence())
    for note in notes:
        print_line(f"note: {note}", file=sys.stderr, flush=True)


def sampling_settings(flags: argparse.Namespace, otherwise: SamplingSettings = DEFAULTS) -> SamplingSettings:
    """What was asked for, else the base's; without --seed another one each time, so that the same command does not say
    the same again. Raises UsageError for a number out of range."""
    given = {name: getattr(flags, name) for name in _SAMPLING if getattr(flags, name) is not None}
    return replace(otherwise, **{"seed": secrets.randbelow(1_000_000), **given})


def load_tuned(flags: argparse.Namespace) -> Tuned:
    adapter_folder(find_run(given_run(flags)))  # before torch is imported
    with loading_pytorch():
        from florilegium.generation.tuned import load
    where = {"model": flags.model, "bits": flags.bits, "device": flags.device, "kernels": kernels_for(flags)}
    with ModelLoading() as progress:
        tuned = load(given_run(flags), **where, progress=progress)
    say_notes(tuned)
    return tuned


def show(tuned: Tuned, rows: Sequence[Generated], beside: Sequence[Generated], as_json: bool) -> None:
    from florilegium.cli.progress import print_quote

    for i, row in enumerate(rows):
        if as_json:
            extra = {"base": beside[i].as_row(tuned.template)} if beside else {}
            print_line(json_line({**row.as_row(tuned.template), **extra}))
            continue
        print_quote(row, tuned.template, "tuned" if beside else "")
        if beside:
            print_quote(beside[i], tuned.template, "base ")
        print_line()
