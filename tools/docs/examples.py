"""What README, tutorial and the page on a CSV show, run again: real commands, what they print goes into the pages.

    python -m tools.docs.examples --work DIR [--again]

A console block under a comment is filled anew:

    <!-- printed, without: step +\\d+/ | plan | kernels -->        lines that begin so become one "..."

Each command runs once in DIR, in the order of the pages, and what it printed is kept there; --again runs all. A command
that is not ours (`pip install`) is shown and not run. With no one else on two cores it takes some five minutes."""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).parent.parent.parent
PAGES = ("README.md", "docs/tutorial.md", "docs/how-to/your-own-csv.md")
BLOCK = re.compile(r"<!-- printed(?:, without: (?P<without>.*?))? -->\n```console\n(?P<shown>.*?)```", re.S)
SCRIPT = re.compile(r"<!-- run -->\n```python\n(.*?)```", re.S)
NOISE = re.compile(r"loading PyTorch")


@dataclass
class Session:
    """Commands in `work`, one after the other. What each printed is kept under a name made of all that ran before it:
    the same words may print something else after another run."""

    work: Path
    so_far: str = ""

    def run(self, command: list[str]) -> str:
        """What `command` printed, now or when it ran here before. A failure is what the page shows then."""
        self.so_far = hashlib.sha256((self.so_far + shlex.join(command[1:])).encode()).hexdigest()
        kept = self.work / f".{self.so_far[:12]}.txt"
        if not kept.is_file():
            print("runs:", shlex.join(command[1:])[:100], flush=True)
            done = subprocess.run(
                command,
                cwd=self.work,
                env=os.environ | {"COLUMNS": "104", "PYTHONPATH": str(PROJECT / "src")},
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            kept.write_text(done.stdout, encoding="utf-8")
        return kept.read_text(encoding="utf-8")


def fill(page: str, session: Session) -> str:
    """`page` with the output of its commands as it is today."""
    for code in SCRIPT.findall(page):
        session.run([sys.executable, "-c", code])
    return BLOCK.sub(lambda found: _filled(found, session), page)


def _filled(found: re.Match[str], session: Session) -> str:
    begins = [part.strip() for part in (found["without"] or "").split(" | ") if part.strip()]
    lines = []
    for line in found["shown"].splitlines():
        if line.startswith("$ "):
            lines.append(line)
            lines += _shortened(_printed(line, session), begins)
    head = found[0].split("```console\n")[0]
    return f"{head}```console\n" + "\n".join(lines) + "\n```"


def _printed(line: str, session: Session) -> list[str]:
    words = shlex.split(line.removeprefix("$ "), comments=True)
    if words[:1] != ["florilegium"]:
        return []
    text = session.run([sys.executable, "-P", "-m", *words])
    return [one.rstrip() for one in text.strip("\n").splitlines() if not NOISE.match(one)]


def _shortened(lines: list[str], begins: list[str]) -> list[str]:
    """Lines that begin as one of `begins` says become "...", one for a run of them."""
    left: list[str] = []
    for line in lines:
        drops = any(re.match(part, line) for part in begins)
        if not drops:
            left.append(line)
        elif left[-1:] != ["..."]:
            left.append("...")
    while left and left[-1] in ("", "..."):
        left.pop()
    return left


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--work", type=Path, required=True, help="a folder for the runs")
    parser.add_argument("--again", action="store_true", help="run commands that ran there before, too")
    flags = parser.parse_args()
    flags.work.mkdir(parents=True, exist_ok=True)
    if flags.again:
        for kept in flags.work.glob(".*.txt"):
            kept.unlink()
    session = Session(flags.work.resolve())
    for name in PAGES:
        page = PROJECT / name
        page.write_text(fill(page.read_text(encoding="utf-8"), session), encoding="utf-8")


if __name__ == "__main__":
    main()
