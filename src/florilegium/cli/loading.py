"""The first line of a command. torch takes seconds to import, and a person should not stare at nothing for them."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

from florilegium.config.processes import is_first_process
from florilegium.errors import ResourceError
from florilegium.storage.platform import largest_address_space

# Addresses, most of them never touched: of torch for processors alone with Transformers and PEFT. Its CUDA build takes more.
LIBRARIES_BYTES = int(3.4 * 2**30)


@contextlib.contextmanager
def loading_pytorch() -> Iterator[None]:
    """Says "loading PyTorch ..." on stderr while the imports inside run: on a terminal the line is cleared afterwards.
    Nothing is said where torch is imported already. Raises ResourceError where it has no room."""
    if "torch" in sys.modules or not is_first_process():
        yield
        return
    refuse_little_room(largest_address_space())
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


def refuse_little_room(limit: int | None) -> None:
    """Raises ResourceError for a limit of addresses under which torch cannot be imported: from its own libraries on, some
    end the process in place of saying so."""
    if limit is not None and limit < LIBRARIES_BYTES:
        needed = f"PyTorch with the other libraries takes {LIBRARIES_BYTES / 2**30:.1f} GiB"
        raise ResourceError(
            f"memory is limited to {limit / 2**30:.1f} GiB of addresses by ulimit -v, and {needed}",
            "Raise it (ulimit -v unlimited); to limit memory itself, use a container or systemd-run -p MemoryMax=4G",
        )


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
