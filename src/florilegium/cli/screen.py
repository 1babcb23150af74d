"""What reaches the terminal: a path, a name or a text that came from elsewhere may hold escape sequences, which would move
the cursor, hide a line or rename the window. Every plain line is printed from here (a test holds that)."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shutil
import sys
import textwrap
from typing import IO


def printable(text: str) -> str:
    """`text` with control characters (escape sequences among them) as spaces; line breaks stay."""
    return "".join(c if c == "\n" or c.isprintable() else " " for c in text)


def fitted(line: str, width: int, indent: int = 0) -> str:
    """`line` broken between words where it is wider than a terminal of `width` columns, what follows indented. A path or a
    command's argument stays whole: a terminal that breaks it lets it be copied in one piece."""
    if len(line) <= width:
        return line
    return textwrap.fill(
        line, max(width, 20), subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
    )


def on_screen(line: str, indent: int = 0) -> str:
    """`line` of stdout `fitted` where somebody watches; whole in a file or for another program."""
    return fitted(line, shutil.get_terminal_size().columns, indent) if sys.stdout.isatty() else line


def print_line(*values: object, end: str = "\n", file: IO[str] | None = None, flush: bool = False) -> None:
    """`print`, for what people read. Where stderr takes no more (a log on a full disk) the line is lost, and nothing else."""
    with contextlib.suppress(OSError) if file is not None and file is sys.stderr else contextlib.nullcontext():
        print(*(printable(str(value)) for value in values), end=end, file=file, flush=flush)


def open_what_is_closed() -> None:
    """A standard stream that the caller closed (`>&-`, some daemons) leads nowhere: Python has None for it, and the next
    file that is opened would get its number, and with it what libraries print."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
        if getattr(sys, name) is None:
            file = io.FileIO(number, "w" if number else "r", closefd=False)
            stream = io.TextIOWrapper(file, encoding="utf-8", write_through=bool(number))
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


class _Terminal(io.FileIO):
    """A terminal that is gone is a reader who has left."""

    def write(self, data: bytes | memoryview) -> int:  # type: ignore[override]  # what a text stream hands over
        try:
            return super().write(data)
        except OSError as error:
            if error.errno == errno.EIO:
                raise BrokenPipeError from error
            raise


def lead_stdout_nowhere() -> None:
    """What is left in its buffer cannot be written: else Python says so once more when it exits, with a code of its own."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def never_fail_to_print() -> None:
    """A letter that the terminal's encoding lacks, or a byte of a name that was no text, is shown escaped: it must not end
    a command that has done its work."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout is sys.__stdout__ and sys.stdout.isatty():
        theirs = sys.stdout
        terminal = io.BufferedWriter(_Terminal(theirs.fileno(), "w", closefd=False))  # type: ignore[type-var]  # for its `write`
        sys.stdout = io.TextIOWrapper(terminal, encoding=theirs.encoding, line_buffering=True)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def json_line(value: object) -> str:
    """One line of JSON with letters as they are, and anything that is not printable escaped: the same value. Where stdout
    cannot write every letter, those beyond ASCII are escaped too."""
    if not (getattr(sys.stdout, "encoding", None) or "").lower().startswith("utf"):
        return json.dumps(value)
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in json.dumps(value, ensure_ascii=False))
