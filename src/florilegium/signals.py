"""Stopping on request: Ctrl-C, SIGTERM and SIGHUP save the work first; a second Ctrl-C does not wait.

Before the training loop there is nothing to save, so a signal ends the command at once (`Interrupted`, exit 130, 143 or
129). In the loop it only raises a flag; the loop looks at it after each step, saves a checkpoint and then leaves with
the same exit code. What only measures (an evaluation, its samples) is `heard` inside the loop: it may take minutes, ends
at once, and is measured again when the run is resumed.

After the first signal the system's own handling of Ctrl-C is back: the second one ends the process even while it is
deep in C code, and what is on disk is whole anyway. SIGTERM and SIGHUP a second time change nothing: `timeout` sends
SIGTERM twice, systemd sends SIGHUP right behind it, and neither means that the save should be given up."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from florilegium.errors import Interrupted

# Windows has no SIGHUP.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class StopRequest:
    """Whether somebody asked to stop. `number` is the signal's, or 0; `what` says where the work stands while nothing
    defers."""

    def __init__(self) -> None:
        self.number = 0
        self.what, self.fix = "nothing was trained yet", ""
        self.deferring = self.raised = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            return
        self.number = number
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        if not self.deferring:
            self.raised = True
            raise interrupted(number, self.what, self.fix)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, a signal only sets `number`."""
        self.deferring = True
        try:
            yield
        finally:
            self.deferring = False

    @contextlib.contextmanager
    def heard(self, what: str, fix: str) -> Iterator[None]:
        """Inside `deferred`, work that may be lost: a signal ends it at once, and `what` says what is saved."""
        if self.number:
            raise interrupted(self.number, what, fix)
        before = self.what, self.fix, self.deferring
        self.what, self.fix, self.deferring = what, fix, False
        try:
            yield
        except Interrupted:  # as it was raised: no library turned it into an error of its own
            self.raised = False
            raise
        finally:
            self.what, self.fix, self.deferring = before


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """Inside, SIGINT and SIGTERM end the process as the system does: for calls that Python cannot interrupt to let a
    handler run, where nothing can be lost."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {n: signal.signal(n, signal.SIG_DFL) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def interrupted(number: int, what: str, fix: str = "") -> Interrupted:
    return Interrupted(f"stopped by {signal.Signals(number).name}: {what}", fix, signal_number=number)


_watching: list[StopRequest] = []


@contextlib.contextmanager
def watch() -> Iterator[StopRequest]:
    """Handles the signals inside; within another `watch` it is that one. Outside the main thread, where Python allows
    no handlers, nothing is changed."""
    if _watching or threading.current_thread() is not threading.main_thread():
        yield _watching[0] if threading.current_thread() is threading.main_thread() else StopRequest()
        return
    stop = StopRequest()
    # What is ignored stays ignored: nohup and background shells ask for that.
    heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before: dict[int, Any] = {number: signal.signal(number, stop.handle) for number in heard}
    _watching.append(stop)
    try:
        yield stop
    except Exception as error:
        # A library that turns every exception into one of its own must not turn a stop into "cannot load the model".
        if stop.raised and not isinstance(error, Interrupted):
            raise interrupted(stop.number, stop.what, stop.fix) from error
        raise
    finally:
        _watching.clear()
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
