"""The first line of a command. torch takes seconds to import, and a person should not stare at nothing for them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def loading_pytorch() -> Iterator[None]:
    """Says "loading PyTorch ..." on stderr while the imports inside run: on a terminal the line is cleared afterwards.
    Nothing is said where torch is imported already."""
    if "torch" in sys.modules:
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
