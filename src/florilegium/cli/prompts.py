"""Prompts as they are typed: on the command line, a line each on standard input or in a file.

Where the locale has no letters beyond ASCII (a container, cron, ssh without LANG), Python keeps their bytes as halves of
surrogate pairs. They are read as UTF-8 then; a byte that is not is refused by name, for it is no fault of the data."""

from __future__ import annotations

import io
import re
import sys

from florilegium.errors import UsageError


def as_typed(text: str, where: str = "the prompt") -> str:
    """`text` with its letters whole. Raises UsageError for a byte that is not UTF-8."""
    whole = text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    if found := re.search("[\udc80-\udcff]", whole):
        raise UsageError(f"{where} holds a byte that is not UTF-8 (0x{ord(found[0]) - 0xDC00:02x})", "Save it as UTF-8")
    return whole


def standard_input_keeps_bytes() -> None:
    """A byte that is no letter reaches `as_typed`, whatever the locale does with such."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")


def prompts_from_standard_input() -> list[str]:
    """A prompt a line, empty lines left out; one empty prompt where there is none."""
    standard_input_keeps_bytes()
    lines = [as_typed(line.strip(), f"line {number} of standard input") for number, line in enumerate(sys.stdin, 1)]
    return list(filter(None, lines)) or [""]


def prompts_from_file(path: str) -> list[str]:
    """A prompt a line, empty lines left out. Raises UsageError for a file that holds none, or cannot be read."""
    try:
        with open(path, encoding="utf-8") as file:
            prompts = [line.strip() for line in file if line.strip()]
    except OSError as error:
        raise UsageError(
            f"cannot read {path}: {error.strerror}", "--prompts takes a text file with one prompt a line"
        ) from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 (byte {error.start})", "Save it as UTF-8") from None
    if not prompts:
        raise UsageError(f"{path} holds no prompt", "Write one prompt a line")
    return prompts
