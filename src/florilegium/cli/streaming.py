"""Texts on the terminal while they are written; once one is whole, it is shown again as a quote with its tags."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Generator
from typing import TYPE_CHECKING

from florilegium.cli.progress import print_quote, working
from florilegium.cli.screen import print_line, printable

if TYPE_CHECKING:
    from florilegium.config import SamplingSettings
    from florilegium.generation.tuned import Tuned


def writes_as_it_goes(as_json: bool) -> bool:
    """Whether somebody watches: results for a file or another program come whole."""
    return not as_json and sys.stdout.isatty() and sys.stderr.isatty()


def stream_rows(tuned: Tuned, prompt: str, n: int, settings: SamplingSettings, *, tags: bool = False) -> None:
    """`n` texts from `prompt`, one after the other: the same as `Tuned.generate` writes."""
    for row in range(n):
        waiting = "writing" + ("" if row else tuned.warm_up_note())
        text, finished = _watch(tuned.stream(prompt, tags=tags, row=row, settings=settings), waiting)
        _clear(text)
        print_quote(tuned.as_generated(text, finished, tags=tags), tuned.template)
        print_line(flush=True)


def _watch(pieces: Generator[str, None, bool], waiting: str) -> tuple[str, bool]:
    """Writes the pieces on stderr as they come, and `waiting` until the first is there; the whole text, and whether the
    model stopped by itself."""
    text = ""
    try:
        with working(waiting):
            piece = next(pieces)
        while True:
            text += piece
            sys.stderr.write(printable(piece))
            sys.stderr.flush()
            piece = next(pieces)
    except StopIteration as end:
        return text, bool(end.value)


def _clear(text: str) -> None:
    """Takes the streamed text off the screen again, as many lines as it took."""
    width = shutil.get_terminal_size().columns
    lines = sum(max(1, -(-len(line) // width)) for line in text.split("\n"))
    sys.stderr.write("\r" + "\x1b[2K\x1b[1A" * (lines - 1) + "\x1b[2K\r")
    sys.stderr.flush()
