"""`--notify`: the terminal rings and, where it can, shows a notification when a long command ends.

Both are written to the terminal that the command was typed in, so they work over ssh too: a bell (0x07) everywhere, and
the sequence OSC 9 that iTerm2, kitty, Ghostty, WezTerm and Windows Terminal show on the desktop. Others pass it over."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Iterator

from florilegium.cli.screen import printable
from florilegium.errors import Interrupted, roughly


def add_notify(parser: argparse.ArgumentParser) -> None:
    """The flag, of commands that take long; `main` obeys it."""
    help = "ring the terminal at the end, and show a notification where it can"
    parser.add_argument("--notify", action="store_true", help=help)


@contextlib.contextmanager
def notifying(is_asked: bool, command: str) -> Iterator[None]:
    """Tells at its end whether `command` is done, was stopped or failed, and how long it took."""
    started, came = time.monotonic(), "done"
    try:
        yield
    except (KeyboardInterrupt, Interrupted):
        came = "stopped"
        raise
    except BaseException:
        came = "failed"
        raise
    finally:
        if is_asked:
            ring(f"florilegium {command}: {came} after {roughly(time.monotonic() - started)}")


def ring(text: str) -> None:
    """Rings on whichever of stderr and stdout is a terminal; a log gets nothing."""
    terminal = next((stream for stream in (sys.stderr, sys.stdout) if stream.isatty()), None)
    if terminal is not None:
        with contextlib.suppress(OSError):  # gone meanwhile
            terminal.write(f"\x1b]9;{printable(text)}\x07\x07")
            terminal.flush()
