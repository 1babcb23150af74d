"""What reaches the terminal: a path, a name or a text that came from elsewhere may hold escape sequences, which would move
the cursor, hide a line or rename the window. Every plain line is printed from here (a test holds that)."""

from __future__ import annotations

import io
import json
import sys
from typing import IO


def printable(text: str) -> str:
    """`text` with control characters (escape sequences among them) as spaces; line breaks stay."""
    return "".join(c if c == "\n" or c.isprintable() else " " for c in text)


def print_line(*values: object, end: str = "\n", file: IO[str] | None = None, flush: bool = False) -> None:
    """`print`, for what people read."""
    print(*(printable(str(value)) for value in values), end=end, file=file, flush=flush)


def never_fail_to_print() -> None:
    """A letter that the terminal's encoding lacks, or a byte of a name that was no text, is shown escaped: it must not end
    a command that has done its work."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def json_line(value: object) -> str:
    """One line of JSON with letters as they are, and anything that is not printable escaped: the same value. Where stdout
    cannot write every letter, those beyond ASCII are escaped too."""
    if not (getattr(sys.stdout, "encoding", None) or "").lower().startswith("utf"):
        return json.dumps(value)
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in json.dumps(value, ensure_ascii=False))
