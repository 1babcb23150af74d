"""The figures that the torture tests reached, and RELIABILITY.md made of them.

Each test that measures a line of the table adds its figure to `.reliability.jsonl` (not in the repository). `python -m
tests.torture.figures`, the last step of `make torture`, writes the table from it: every line of ISSUE below, those that
were not run marked so. Nobody writes a figure into RELIABILITY.md by hand."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FILE = ".reliability.jsonl"
# line of the table -> (what it is, the figure to reach)
LINES = {
    "kill -9": (
        "kill -9 at random times, many of them inside a save",
        "200 kills, 60 in a save: 0 lost, 0 bits differ, int8 included",
    ),
    "nth operation": (
        "kill at the Nth file operation of a save and a rotation, every N",
        "N of N resumable; never without a good one",
    ),
    "power cut": ("unsynced writes dropped or torn: replay of a save's operations", "0 unreadable, 0 silently wrong"),
    "full disk": (
        "disk full at many sizes, file-size limit, read-only folder",
        "0 corrupted; needed and free said; exit 5; resume works",
    ),
    "damage": (
        "every checkpoint file missing, empty, halved, flipped x 100, swapped",
        "all detected, newest good one taken, said",
    ),
    "no number": (
        "NaN or Inf in weight, loss, gradient or input at any of 50 steps",
        "stops within a step, exit 6, 0 NaN adapters",
    ),
    "signals": (
        "SIGINT, SIGTERM, SIGHUP at 50 times",
        "saved within a step, 130/143/129, 0 orphans, same bits; 2nd Ctrl-C at once",
    ),
    "memory": (
        "memory running out at step k (GPU error, host limit)",
        "halved, same order, loss within 1e-6, logged; a failed save is none",
    ),
    "changed settings": ("learning rate, data, template, base changed on resume", "refused or applied, always said"),
    "wrong base": ("an adapter on another base or tokenizer", "0 of 12 wrongly accepted, 0 wrongly refused"),
    "two runs": ("two runs into one directory", "second refused, exit 2, 0 mixed files, a stale lock recognised"),
    "bad data": ("120 bad data files, 1,000,000 mutations of good ones", "0 tracebacks, 100% name file and line"),
    "templates": ("templates with attributes, formats, Jinja; braces in data", "attribute access 0, round trip 100%"),
    "poison": ("pickles, code, header bombs, ranks of 1e9, deep JSON", "code run 0, memory bounded, exit 4"),
    "hostile": (
        "bases, indexes, configurations, numbers, files and adapters made to deceive",
        "at least 20 of each kind: 0 silently accepted, 0 tracebacks, the base as it was",
    ),
    "names": ("names with ../, absolute paths, links, NUL; existing output", "0 files outside, 0 overwritten"),
    "secrets": ("a token by flag, environment and config; home and user name", "found in 0 outputs"),
    "long run": ("5,000 steps", "memory slope under 1 kB a step, file descriptors flat"),
    "newcomers": ("60 newcomer mistakes", "at least 57 give one line with the fix and the exit code; 0 tracebacks"),
    "cost": (
        "what saving and guards cost",
        "a 7b1 adapter's checkpoint under 1 s, no memory peak; guards under 1% of a step",
    ),
}


@dataclass
class Figures:
    """Rows of `.reliability.jsonl`: the last one of a line counts."""

    path: Path

    @classmethod
    def at(cls, root: Path) -> Figures:
        return cls(root / FILE)

    def add(self, line: str, text: str, seconds: float, everything: bool) -> None:
        assert line in LINES, line
        row = {
            "line": line,
            "text": text,
            "seconds": round(seconds, 1),
            "all": everything,
            "at": time.strftime("%Y-%m-%d"),
            "commit": head(),
        }
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)  # tests run in several processes
        os.write(handle, (json.dumps(row, ensure_ascii=False) + "\n").encode())
        os.close(handle)

    def newest(self) -> dict[str, dict[str, object]]:
        rows = [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []
        return {row["line"]: row for row in sorted(rows, key=lambda row: bool(row["all"]))}


def head() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    return done.stdout.strip() or "unknown"


def table(rows: dict[str, dict[str, object]]) -> str:
    """RELIABILITY.md as text."""
    lines = [
        "# Nothing lost, nothing silent: the figures",
        "",
        "Written by `make torture` (`python -m tests.torture.figures`); do not edit. Each line is a test in `tests/torture/` that acts on",
        "the real code in real processes: killed, starved, poisoned. CI runs a bounded share of each, `make torture` all of it.",
        "",
        f"Machine: {os.cpu_count()} cores, {platform.machine()}, Linux, Python {platform.python_version()}, no GPU.",
        "",
        "| what | to reach | reached | run | s |",
        "|---|---|---|---|---|",
    ]
    for name, (what, goal) in LINES.items():
        row = rows.get(name)
        if row is None:
            lines.append(f"| {what} | {goal} | **not run** | | |")
            continue
        amount = "all" if row["all"] else "CI's share"
        lines.append(
            f"| {what} | {goal} | {row['text']} | {amount}, {row['at']}, {row['commit']} | {row['seconds']:.0f} |"
        )
    total = sum(float(str(row["seconds"])) for row in rows.values())
    lines += ["", f"Lines run: {len(rows)} of {len(LINES)}, {total / 60:.1f} minutes of tests."]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> None:
    root = Path(__file__).parent.parent.parent
    (root / "RELIABILITY.md").write_text(table(Figures.at(root).newest()), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
