"""The first line of a command. torch takes seconds to import, and a person should not stare at nothing for them."""

from __future__ import annotations

import contextlib
import gc
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from florilegium.cli.screen import printable
from florilegium.config.processes import is_first_process
from florilegium.errors import ResourceError, clock, redact
from florilegium.storage.platform import largest_address_space

# Addresses, most of them never touched: of torch for processors alone with Transformers and PEFT. Its CUDA build takes more.
LIBRARIES_BYTES = int(3.4 * 2**30)
LARGE_MODEL_BYTES = 2 * 10**8  # a smaller one is read before anybody asks how far it is
SHARE_READ = 0.02  # of a model: from less the time of the rest cannot be told
LARGE_FILE_BYTES = 2**20  # some 8,000 quotes: a third of a second


@contextlib.contextmanager
def loading_pytorch() -> Iterator[None]:
    """Says "loading PyTorch ..." on stderr while the imports inside run: on a terminal the line is cleared afterwards.
    Nothing is said where torch is imported already. Raises ResourceError where it has no room."""
    if "torch" in sys.modules or not is_first_process():
        yield
        return
    refuse_little_room(largest_address_space())
    usual = gc.get_threshold()
    # A million objects that all stay: the collector would look through them again and again. Young garbage goes as ever.
    gc.set_threshold(*usual[:2], 100 * usual[2])
    with contextlib.suppress(OSError):  # nobody reads stderr: no reason to fail
        is_terminal = sys.stderr.isatty()
        sys.stderr.write("loading PyTorch ..." + ("" if is_terminal else "\n"))
        sys.stderr.flush()
    try:
        yield
    finally:
        gc.freeze()
        gc.set_threshold(*usual)
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


class StatusLine:
    """What is under way, on stderr: on a terminal one line that is written over, else lines among others."""

    def __init__(self) -> None:
        self.is_terminal = sys.stderr.isatty()
        self._is_shown = False

    def show(self, line: str) -> None:
        self._is_shown = True
        with contextlib.suppress(OSError):  # nobody reads stderr: no reason to fail
            sys.stderr.write(f"\r\x1b[2K{line}" if self.is_terminal else f"{line}\n")
            sys.stderr.flush()

    def clear(self) -> None:
        if self.is_terminal and self._is_shown:
            self._is_shown = False
            with contextlib.suppress(OSError):
                sys.stderr.write("\r\x1b[2K")
                sys.stderr.flush()


class RowCounter:
    """How many rows of `data` are read or compared: on a terminal a number that counts up, else a line now and then. Data
    that may take more than half a second (a large file, a folder, the Hub) are named at once; of others nothing is
    said."""

    def __init__(self, data: str) -> None:
        self._said = time.monotonic()
        self._line = StatusLine()
        if _takes_long(data):
            self._line.show(f"reading {printable(redact(data))} ...")

    def __call__(self, what: str, count: int) -> None:
        now = time.monotonic()
        if now - self._said < (0.5 if self._line.is_terminal else 10):
            return
        self._said = now
        self._line.show(f"{count:,} {what}")

    def done(self) -> None:
        """Clears the line."""
        self._line.clear()


class ModelLoading:
    """How much of a large model's weights is read, and the time that the rest takes. On a terminal it is shown from half a
    second on, else in a line every ten seconds."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._started = self._said = now()
        self._line = StatusLine()
        self._is_told = False

    def __enter__(self) -> ModelLoading:
        if self._line.is_terminal:
            self._line.show("loading the model ...")
        return self

    def __exit__(self, *_: object) -> None:
        self.done()

    def __call__(self, done: int, total: int) -> None:
        """`done` of `total` bytes are read."""
        now = self._now()
        if not self._is_told:  # what came before the first byte says nothing of the others
            self._is_told, self._started = True, now
        if now - self._said < (0.5 if self._line.is_terminal else 10) or total < LARGE_MODEL_BYTES:
            return
        self._said = now
        eta = ""
        if done > SHARE_READ * total:
            eta = f"  ETA {clock((now - self._started) / done * (total - done))}"
        self._line.show(f"loading the model  {done / 1e9:.1f} of {total / 1e9:.1f} GB{eta}")

    def done(self) -> None:
        """Clears the line."""
        self._line.clear()


def _takes_long(data: str) -> bool:
    """Whether DATA cannot be read at once, as far as its name and size tell."""
    path = Path(data).expanduser()
    with contextlib.suppress(OSError, ValueError):
        if path.exists():
            return path.is_dir() or path.stat().st_size > LARGE_FILE_BYTES
        from florilegium.data.sources import SAMPLE, looks_like_path

        return data != SAMPLE and not looks_like_path(data)
    return False
