"""Stopping on request: Ctrl-C, SIGTERM and SIGHUP save the work first, a second Ctrl-C does not wait.

Before the training loop there is nothing to save, so a signal ends the command at once (`Interrupted`, exit 130 or 143). In the loop it
only raises a flag; the loop looks at it after each step, saves a checkpoint and then leaves with the same exit code.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from florilegium.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequest:
    """Whether somebody asked to stop. `number` is the signal's, or 0."""

    def __init__(self) -> None:
        self.number = 0
        self.deferring = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        if self.number:  # the second time: no waiting
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.number = number
        if not self.deferring:
            raise interrupted(number, "nothing was trained yet")

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, a signal only sets `number`."""
        self.deferring = True
        try:
            yield
        finally:
            self.deferring = False


def interrupted(number: int, what: str, fix: str = "") -> Interrupted:
    return Interrupted(f"stopped by {signal.Signals(number).name}: {what}", fix, signal_number=number)


@contextlib.contextmanager
def watch() -> Iterator[StopRequest]:
    """Handles the signals inside. Outside the main thread, where Python allows no handlers, nothing is changed."""
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    # What is ignored stays ignored: nohup and background shells ask for that.
    heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before: dict[int, Any] = {number: signal.signal(number, stop.handle) for number in heard}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
