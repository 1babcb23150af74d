"""What a library prints by itself is kept off the terminal while it reads what others made; our own lines pass."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import os, sys
from florilegium.storage.native_stderr import native_stderr_away, own_stderr
os.write(2, b"before\\n")
{own}
with native_stderr_away():
    os.write(2, b"thread '<unnamed>' panicked\\n")
    print("ours", file=sys.stderr, flush=True)
    with native_stderr_away():
        os.write(2, b"panicked again\\n")
    os.write(2, b"still away\\n")
os.write(2, b"after\\n")
print(len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0)
"""


def printed(own: str) -> tuple[list[str], str]:
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(own=own)], capture_output=True, text=True, check=True)
    return done.stderr.splitlines(), done.stdout


def test_ours_pass_and_theirs_do_not() -> None:
    lines, _ = printed("own_stderr()")
    assert lines == ["before", "ours", "after"]


def test_in_a_library_nothing_is_turned_away() -> None:
    """There, other threads print to number 2 as well."""
    lines, _ = printed("")
    assert lines == ["before", "thread '<unnamed>' panicked", "ours", "panicked again", "still away", "after"]


def test_no_file_stays_open() -> None:
    assert int(printed("own_stderr()")[1]) == int(printed("")[1]) + 1  # the copy that we print to
