"""What can go wrong, and with which exit code the command line leaves.

    FlorilegiumError            1    never raised itself
    ├── UsageError              2    a flag, a key of the config file, a run that is already there
    ├── DataError               3    the rows: not there, not readable, not what the template needs
    ├── ModelError              4    the base model, the adapter or the run: not there, damaged, not fitting, not trusted
    ├── ResourceError           5    memory or disk ran out, or would
    ├── DivergedError           6    the loss or a gradient stopped being a number
    └── Interrupted  130, 143, 129   a signal, raised after the work was saved

Every expected failure is one of these, and says two things: the cause, and the fix (what to type next). The command
line prints them on one line and leaves with `exit_code`; a traceback is for our own mistakes (or for `--debug`)."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from difflib import SequenceMatcher, get_close_matches


class FlorilegiumError(Exception):
    """An expected failure. `cause` says what is wrong and where, `fix` what to do about it; both are one line."""

    exit_code = 1
    is_told: bool | None = None  # of several processes: whether another one tells it; None before they met

    def __init__(self, cause: str, fix: str = "") -> None:
        super().__init__(cause, fix)
        self.cause = one_line(cause)
        self.fix = one_line(fix)

    def __str__(self) -> str:
        return f"{self.cause}. {self.fix}" if self.fix else self.cause


class UsageError(FlorilegiumError):
    exit_code = 2


class DataError(FlorilegiumError):
    exit_code = 3


class ModelError(FlorilegiumError):
    exit_code = 4


class ResourceError(FlorilegiumError):
    exit_code = 5


class DivergedError(FlorilegiumError):
    exit_code = 6


class Interrupted(FlorilegiumError):
    """Stopped by a signal. `exit_code` is 128 + the signal's number: 130 for Ctrl-C, 143 for SIGTERM, 129 for
    SIGHUP."""

    def __init__(self, cause: str, fix: str = "", *, signal_number: int = 2) -> None:
        super().__init__(cause, fix)
        self.exit_code = 128 + signal_number


def one_line(text: str) -> str:
    """`text` without line breaks, terminal control characters or secrets: what people typed ends up in messages, and
    may hold any."""
    return "".join(c if c.isprintable() else " " for c in redact(text)).strip().rstrip(".")


_TOKEN = re.compile(r"\bhf_\w{8,}|(?<=://)[^/\s@]+(?=@)")
_SECRET_NAMES = ("TOKEN", "KEY", "SECRET", "PASSWORD", "PASSWD", "PASSPHRASE", "_PAT", "CREDENTIAL", "CREDENTIALS")


def redact(text: str) -> str:
    """`text` with `***` for what looks like a Hugging Face token, for user and password in an address, and for the
    value of any environment variable whose name says that it is secret."""
    text = _TOKEN.sub("***", text)
    for name in os.environ:  # the values of the others are not even looked at: a data file may bring a message a row
        if name.upper().endswith(_SECRET_NAMES) and len(value := os.environ.get(name, "")) >= 8:
            text = text.replace(value, "***")
    return text


def counted(number: int, noun: str, plural: str = "") -> str:
    """A count in a message: `1 row`, `2,000 rows`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def nearest(name: str, known: Collection[str]) -> str:
    """`"Did you mean 'quote'?"`, or an empty string where nothing known is near enough: a wrong guess is worse than
    none. A mapping says under what name a known one is shown (none: it is no guess)."""
    match = get_close_matches(name, known, n=1, cutoff=0.7)
    shown = known[match[0]] if match and isinstance(known, Mapping) else "".join(match)
    return f"Did you mean {shown!r}?" if shown else ""


def nearest_flag(name: str, known: Collection[str]) -> str:
    """`nearest` for names of several words: each must be near its own, or the whole nearly the same. `cache-dir` is no
    typing error of `save-dir`, nor `fsdp-config` one of `config`."""
    near = [other for other in known if _is_typed_for(name.replace("_", "-"), other.replace("_", "-"))]
    return nearest(name, {other: known[other] for other in near} if isinstance(known, Mapping) else near)


def _is_typed_for(name: str, other: str) -> bool:
    words, others = name.split("-"), other.split("-")
    if len(words) == len(others) and all(_share(a, b) >= 0.7 for a, b in zip(words, others, strict=True)):
        return True
    return _share(name, other) >= 0.9


def _share(a: str, b: str) -> float:
    return SequenceMatcher(None, a, b).ratio()


def clock(seconds: float) -> str:
    """`0:56`, `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def roughly(seconds: float) -> str:
    """`40 s`, `4 min`, `2 h 10 min`: as exact as a guess may be."""
    if seconds < 90:
        return f"{10 * max(1, round(seconds / 10))} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, rest = divmod(10 * round(minutes / 10), 60)
    return f"{hours} h {rest} min" if rest else f"{hours} h"


def reason_of(error: BaseException, limit: int = 600) -> str:
    """What a library says, whole: the line that gives the reason is rarely its first. Its class where it says nothing."""
    return whole_reason(str(error), limit) or type(error).__name__


def whole_reason(text: str, limit: int = 600) -> str:
    """What a program or a library wrote over several lines, on one; of more than `limit` characters both ends."""
    words = " ".join(text.split())
    return words if len(words) <= limit else f"{words[: limit // 2]} ... {words[-limit // 2 :]}"
