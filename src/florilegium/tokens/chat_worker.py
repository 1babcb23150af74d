"""A chat template of somebody else's, rendered in a process of its own, with so much time and memory and no more.

Reads one JSON object from stdin, {"template", "turns", "special", "seconds"}; writes one to stdout, {"text"} or {"error"}.
Jinja's sandbox keeps a template from files and from Python, and what it computes, and for how long, only the system can
bound. It is run by its path and imports nothing of florilegium."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping
from typing import Any, TypedDict

BYTES = 1 << 30  # beside what the libraries take; a template takes some kilobytes
MAX_TEXT = 1 << 20


class Asked(TypedDict):
    """By the process that started this one."""

    template: str
    turns: list[dict[str, str]]
    special: Mapping[str, Any]
    seconds: int


def main() -> None:
    asked: Asked = json.load(sys.stdin)
    from transformers.utils.chat_template_utils import render_jinja_template

    bound(asked["seconds"])
    try:
        # texts, and where answers lie in them, which Transformers annotates as one text
        rendered: Any = render_jinja_template([asked["turns"]], chat_template=asked["template"], **asked["special"])
        text = rendered[0][0]
        found = {"text": text} if len(text) <= MAX_TEXT else {"error": f"it makes {len(text):,} characters"}
    except Exception as error:  # whatever a template raises
        found = {"error": f"{type(error).__name__}: {error}"[:2000]}
    print(json.dumps(found))


def bound(seconds: int) -> None:
    """From here on this process has so many seconds of a processor, and `BYTES` more. Where the system cannot (Windows, or
    no /proc), the patience of the process that started it has to do."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        with open("/proc/self/statm", encoding="ascii") as file:
            taken = int(file.read().split()[0]) * resource.getpagesize()
        for kind, limit in ((resource.RLIMIT_CPU, seconds), (resource.RLIMIT_AS, taken + BYTES)):
            soft, hard = resource.getrlimit(kind)
            finite = [number for number in (limit, soft, hard) if number != resource.RLIM_INFINITY]
            resource.setrlimit(kind, (min(finite), hard))


if __name__ == "__main__":
    main()
