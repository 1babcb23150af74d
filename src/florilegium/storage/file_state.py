"""Whether a file is the one that was read: its place on the disk, its size and its time. What is held in memory of a file is
read again when that has changed."""

from __future__ import annotations

import os
from pathlib import Path

FileState = tuple[int, int, int]


def state_of_file(path: Path) -> FileState | None:
    """None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
