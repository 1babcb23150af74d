"""The first line of a command. torch takes seconds to import, and a person should not stare at nothing for them."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

from florilegium.config.processes import is_first_process


@contextlib.contextmanager
def loading_pytorch() -> Iterator[None]:
    """Says "loading PyTorch ..." on stderr while the imports inside run: on a terminal the line is cleared afterwards.
    Nothing is said where torch is imported already."""
    if "torch" in sys.modules or not is_first_process():
        yield
        return
    with contextlib.suppress(OSError):  # nobody reads stderr: no reason to fail
        is_terminal = sys.stderr.isatty()
        sys.stderr.write("loading PyTorch ..." + ("" if is_terminal else "\n"))
        sys.stderr.flush()
    try:
        yield
    finally:
        if sys.stderr.isatty():
            with contextlib.suppress(OSError):
                sys.stderr.write("\r\x1b[2K")
                sys.stderr.flush()


class RowCounter:
    """How many rows are read or compared, on stderr: on a terminal one line that counts up, else a line now and then.
    Nothing is said of work that takes no second."""

    def __init__(self) -> None:
        self._began = self._said = time.monotonic()
        self._is_terminal = sys.stderr.isatty()

    def __call__(self, what: str, count: int) -> None:
        now = time.monotonic()
        if now - self._said < (0.5 if self._is_terminal else 10):
            return
        self._said = now
        with contextlib.suppress(OSError):
            line = f"{count:,} {what}"
            sys.stderr.write(f"\r\x1b[2K{line}" if self._is_terminal else f"{line}\n")
            sys.stderr.flush()

    def done(self) -> None:
        """Clears the line."""
        if self._is_terminal and self._said > self._began:
            with contextlib.suppress(OSError):
                sys.stderr.write("\r\x1b[2K")
                sys.stderr.flush()
