"""`florilegium chat`: type how a quote begins and watch it being written; another one each time.

> The sea
> /about love, hope        quotes with these tags
> /label Be kind.          the tags of a quote
> /n 3   /seed 7   /temperature 0.9
> (an empty line or Ctrl-D ends it)"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from florilegium.cli.command_parser import Commands, add_command
from florilegium.cli.flags import add_run
from florilegium.cli.prompts import as_typed, standard_input_keeps_bytes
from florilegium.cli.screen import print_line
from florilegium.cli.writing import add_model_and_sampling, load_tuned, sampling_settings, show
from florilegium.config import SamplingSettings
from florilegium.errors import DataError, UsageError

if TYPE_CHECKING:
    from florilegium.generation.tuned import Tuned

HELP = "Start a quote and press Enter. /about TAGS, /label QUOTE, /n N, /seed N, /temperature X; an empty line ends it."
NUMBERS = {"/n": int, "/seed": int, "/temperature": float}


def add(commands: Commands) -> None:
    chat = add_command(
        commands,
        "chat",
        "write quotes as you type their openings",
        "florilegium chat",
        "florilegium chat runs/NAME --temperature 0.9",
    )
    add_run(chat, "a run, an adapter folder, or 'latest' (latest)")
    chat.add_argument("-n", type=int, default=1, metavar="N", help="texts for each opening (1)")
    add_model_and_sampling(chat)


def run(flags: argparse.Namespace) -> None:
    sampling_settings(flags)  # what is out of range is refused before a model is loaded
    tuned = load_tuned(flags)
    settings, n = sampling_settings(flags, tuned.base.sampling), flags.n
    print_line(HELP, file=sys.stderr)
    standard_input_keeps_bytes()
    while line := _ask():
        try:
            line = as_typed(line)
            word, _, rest = line.partition(" ")
            if word in NUMBERS:
                n, settings = _changed(word, rest, n, settings)
                continue
            if word.startswith("/") and word not in ("/about", "/label"):
                raise UsageError(f"{word} is no command of chat", HELP)
            _answer(
                tuned, word if word.startswith("/") else "", rest if word.startswith("/") else line, n, settings, flags
            )
        except (UsageError, DataError) as error:  # of this line: the next may be right
            print_line(error, file=sys.stderr)
        settings = replace(settings, seed=settings.seed + 1)


def _changed(word: str, value: str, n: int, settings: SamplingSettings) -> tuple[int, SamplingSettings]:
    """Number of texts and settings with one of them changed."""
    try:
        number = NUMBERS[word](value)
    except ValueError:
        kind = "a number" if NUMBERS[word] is float else "a whole number"
        raise UsageError(f"{word} takes {kind}, not {value!r}", HELP) from None
    if word == "/n":
        if number < 1:
            raise UsageError(f"/n is {number}", "It takes 1 or more")
        return int(number), settings
    return n, replace(settings, **{word[1:]: number})


def _answer(
    tuned: Tuned, command: str, text: str, n: int, settings: SamplingSettings, flags: argparse.Namespace
) -> None:
    from florilegium.cli.streaming import stream_rows, writes_as_it_goes

    if command == "/about":
        result = tuned.about(text.split(","), n, settings=settings)
        show(tuned, result.rows, (), flags.json)
        if len(result.rows) < n:
            often = f"; the tags it writes most: {', '.join(result.frequent_tags)}" if result.frequent_tags else ""
            print_line(f"{len(result.rows)} found{often}", file=sys.stderr)
    elif writes_as_it_goes(flags.json):
        stream_rows(tuned, text, n, settings, tags=command == "/label")
    else:
        show(tuned, tuned.generate(text, n, tags=command == "/label", settings=settings), (), flags.json)


def _ask() -> str:
    print_line("> ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip()
