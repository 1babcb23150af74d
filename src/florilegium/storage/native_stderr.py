"""What libraries in other languages write to file number 2 by themselves, kept off the terminal.

One written in Rust prints its own lines before the exception reaches Python: where in its source it gave up, how to see
more. We tell the cause in one line; theirs goes nowhere while such a library reads what others made. Our own lines pass,
because the command line writes them to a copy of that file (`own_stderr`). Where Python's stderr is number 2 itself, as
for who uses the library, nothing is turned away: it would take other threads' lines with it."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
from collections.abc import Iterator

_STDERR = 2
_lock = threading.Lock()
_inside = 0
_kept = -1  # a copy of number 2 while it leads nowhere


class _Lossy(io.FileIO):
    """What cannot be written is lost, and nothing else: a terminal that is gone, a log on a full disk and a reader who has
    left are no reason to end a run."""

    def write(self, data: bytes | memoryview) -> int:  # type: ignore[override]  # what a text stream hands over
        with contextlib.suppress(OSError):
            return super().write(data)
        return len(data)


def own_stderr() -> None:
    """Makes sys.stderr write to a copy of file number 2. Does nothing where somebody has put another stderr there."""
    theirs = sys.__stderr__
    if theirs is None or sys.stderr is not theirs:
        return
    with contextlib.suppress(OSError, ValueError):
        if theirs.fileno() == _STDERR:
            copy = os.dup(_STDERR)  # for as long as the process lives
            # Nothing is held back, as in Python's own: where nobody reads, a line is lost, and exiting does not fail over it.
            sys.stderr = io.TextIOWrapper(
                _Lossy(copy, "w"),
                encoding=theirs.encoding,
                errors="backslashreplace",
                line_buffering=True,
                write_through=True,
            )


@contextlib.contextmanager
def native_stderr_away() -> Iterator[None]:
    """Inside, file number 2 leads nowhere; from several threads at once until the last of them is out."""
    global _inside, _kept
    with _lock:
        _inside += 1
        if _kept < 0 and not _is_pythons():
            _kept = _turned_away()
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0 and _kept >= 0:
                os.dup2(_kept, _STDERR)
                os.close(_kept)
                _kept = -1


def _is_pythons() -> bool:
    try:
        return sys.stderr is not None and sys.stderr.fileno() == _STDERR
    except (OSError, ValueError, AttributeError):  # a notebook's stderr has no number
        return False


def _turned_away() -> int:
    """A copy of number 2, which leads nowhere now; -1 where that cannot be done (no file number is left)."""
    kept = -1
    with contextlib.suppress(OSError):
        kept = os.dup(_STDERR)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, _STDERR)
        os.close(nowhere)
        return kept
    if kept >= 0:
        os.close(kept)
    return -1
