"""`florilegium generate`: quotes for prompts from the command line, a file, or a person who types."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from florilegium.cli.command_parser import Commands, add_command
from florilegium.cli.loading import loading_pytorch
from florilegium.cli.prompts import as_typed, prompts_from_file, prompts_from_standard_input
from florilegium.cli.screen import print_line
from florilegium.cli.writing import add_model_and_sampling, load_tuned, sampling_settings, show
from florilegium.config import SamplingSettings
from florilegium.errors import UsageError, counted
from florilegium.storage.paths import quoted
from florilegium.storage.run_directory import RunDirectory, adapter_folder, find_run

if TYPE_CHECKING:
    from florilegium.generation.tuned import Tuned

MOST_KNOWN = 2000  # tags, the most frequent
MOST_STREAMED = 3  # texts that a terminal shows one after the other, as they are written; more are written at once


def add(commands: Commands) -> None:
    generate = add_command(
        commands,
        "generate",
        "write quotes with a fine-tuned model",
        "florilegium generate",
        "florilegium generate 'The sea' -n 5 --run runs/NAME",
        "florilegium generate --about love,hope",
        "florilegium generate --label 'Be kind whenever possible.'",
        "florilegium generate --prompts openings.txt --json",
    )
    generate.add_argument(
        "prompt",
        nargs="?",
        metavar="PROMPT",
        help="how the quote begins; '-' reads one a line from standard input; without it, the model begins by itself",
    )
    generate.add_argument("-n", type=int, default=3, metavar="N", help="texts for each prompt (3)")
    generate.add_argument("--about", metavar="TAGS", help="quotes with these tags, separated by commas")
    generate.add_argument("--label", metavar="QUOTE", help="write the tags of this quote")
    generate.add_argument("--prompts", metavar="FILE", help="a file with one prompt a line")
    generate.add_argument("--tags", action="store_true", help=argparse.SUPPRESS)  # --label's name before
    generate.add_argument("--interactive", action="store_true", help=argparse.SUPPRESS)  # `florilegium chat`
    generate.add_argument("--base", action="store_true", help="show what the base model writes beside each text")
    generate.add_argument(
        "--novel-only", action="store_true", help="resample texts that copy training rows, then drop them"
    )
    generate.add_argument("--known-tags", action="store_true", help="choose tags among those of the training rows")
    generate.add_argument("--run", default="latest", metavar="RUN", help="a run, an adapter folder, or 'latest'")
    add_model_and_sampling(generate)


def run(flags: argparse.Namespace) -> None:
    if flags.label is not None:
        if flags.prompt or flags.about:
            raise UsageError("--label takes the quote itself", "Leave PROMPT and --about out")
        flags.prompt, flags.tags = flags.label, True
    _check(flags)
    if flags.interactive:
        from florilegium.cli.commands import chat

        chat.run(flags)
        return
    sampling_settings(flags)  # what is out of range is refused before a model is loaded
    prompts = prompts_from_file(flags.prompts) if flags.prompts else [as_typed(flags.prompt or "")]
    if flags.prompt == "-":
        prompts = prompts_from_standard_input()
    known = _known_tags(flags.run) if flags.known_tags else []  # before the model is loaded
    tuned = load_tuned(flags)
    settings = sampling_settings(flags, tuned.base.sampling)
    if flags.about:
        _write_about(tuned, flags, settings)
    else:
        _write(tuned, prompts, flags, settings, known)
    say_seed(flags, settings)


def say_seed(flags: argparse.Namespace, settings: SamplingSettings) -> None:
    if flags.seed is None and settings.temperature > 0:
        print_line(f"seed {settings.seed} (--seed {settings.seed} writes this again)", file=sys.stderr)


def _check(flags: argparse.Namespace) -> None:
    if flags.prompt and not flags.tags and _is_run(flags.prompt):
        raise UsageError(f"PROMPT is {flags.prompt!r}, which is a run", f"Type: --run {quoted(flags.prompt)}")
    if flags.interactive and (flags.prompts or flags.prompt):
        raise UsageError("--interactive asks for prompts itself", "Leave PROMPT and --prompts out")
    if flags.prompts and flags.prompt:
        other = "--label" if flags.label else "PROMPT"
        raise UsageError(f"--prompts is given beside {other}", f"Leave {other} or --prompts out")
    if flags.n < 1:
        raise UsageError(f"-n is {flags.n}", "It takes 1 or more")
    if flags.novel_only and (flags.base or flags.tags):
        other = "--base" if flags.base else "--label"
        raise UsageError("--novel-only is for quotes that the fine-tuned model writes", f"Leave {other} out")
    if flags.known_tags and (flags.about or flags.base):
        other = "--about" if flags.about else "--base"
        raise UsageError("--known-tags is for the tags that the fine-tuned model writes", f"Leave {other} out")
    if flags.about and (flags.base or flags.prompt or flags.prompts):
        other = "--base" if flags.base else "--prompts" if flags.prompts else "PROMPT"
        raise UsageError(f"--about cannot be combined with {other}", "Leave one of them out")


def _is_run(prompt: str) -> bool:
    """Whether a run or an adapter lies there: other commands take one in this place."""
    return len(prompt) < 1000 and (RunDirectory(Path(prompt)).is_run or os.path.isfile(f"{prompt}/adapter_config.json"))


def _write_about(tuned: Tuned, flags: argparse.Namespace, settings: SamplingSettings) -> None:
    """Quotes asked for by their tags, or drawn and chosen by the tags that the model gives them; says which."""
    from florilegium.cli.progress import working
    from florilegium.cli.screen import printable

    with working(f"looking for {counted(flags.n, 'quote')} about {flags.about}" + tuned.warm_up_note()):
        result = tuned.about(as_typed(flags.about, "--about").split(","), flags.n, settings=settings)
    show(tuned, result.rows, (), flags.json)
    how = "written for these tags" if result.asked else f"chosen from {result.drawn} that were drawn"
    found = f"{counted(len(result.rows), 'quote')} about {flags.about}, {how}"
    if len(result.rows) < flags.n and result.frequent_tags:
        found += f"; the tags it writes most: {', '.join(result.frequent_tags)}"
    print_line(printable(found), file=sys.stderr)


def _write(
    tuned: Tuned, prompts: list[str], flags: argparse.Namespace, settings: SamplingSettings, known: list[str]
) -> None:
    """Writes `-n` texts for each prompt, and shows them; with `known` tags alone, where there are some."""
    from florilegium.cli.progress import working
    from florilegium.cli.streaming import stream_rows, writes_as_it_goes
    from florilegium.generation.known_tags import check_ends_in_tags, with_known_tags

    if known:
        check_ends_in_tags(tuned)

    wanted, beside = len(prompts) * flags.n, []
    whole = flags.base or flags.novel_only or flags.known_tags
    if len(prompts) == 1 and wanted <= MOST_STREAMED and writes_as_it_goes(flags.json) and not whole:
        stream_rows(tuned, prompts[0], wanted, settings, tags=flags.tags)
        return
    with working(f"writing {wanted}" + tuned.warm_up_note()):
        if flags.base:
            pairs = tuned.beside_base(prompts, flags.n, tags=flags.tags, settings=settings)
            rows, beside = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        else:
            rows = tuned.generate(prompts, flags.n, tags=flags.tags, settings=settings, novel_only=flags.novel_only)
            rows = with_known_tags(tuned, rows, known) if known else rows
    if len(rows) < wanted:
        why = "after 10 attempts each they still copied a training row or had no quote"
        print_line(f"{wanted - len(rows)} of {wanted} dropped: {why}", file=sys.stderr)
    show(tuned, rows, beside, flags.json)


def _known_tags(run: str) -> list[str]:
    folder = find_run(run)
    adapter_folder(folder)
    with loading_pytorch():
        from florilegium.generation.known_tags import read_tags_of_rows
    tags = read_tags_of_rows(folder, MOST_KNOWN)
    if not tags:
        raise UsageError(f"--known-tags: the rows of {run} have no tags", "Leave --known-tags out")
    return tags
