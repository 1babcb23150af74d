"""A .jsonl file read within bounds: a run's folder may come from anywhere, and its `metrics.jsonl` may have gigabytes.

Lines are read one by one. What is torn (after a crash), overwritten or too long is left out."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO

MAX_LINE_BYTES = 1 << 20
MAX_KEPT_BYTES = 32 << 20  # 100,000 logged steps; as objects they take some ten times as much


def read_lines(path: Path, budget: int = MAX_KEPT_BYTES) -> list[dict[str, object]]:
    """The objects of `path`. Of a file that holds more than `budget` bytes of them every second is kept, or every fourth
    and so on, and the last: enough for a curve."""
    rows: list[tuple[int, dict[str, object]]] = []
    stride, kept, last = 1, 0, None
    for number, (size, row) in enumerate(whole_lines(path)):
        last = row
        if number % stride == 0:
            rows.append((size, row))
            kept += size
        while kept > budget and len(rows) > 1:
            rows, stride = rows[::2], stride * 2
            kept = sum(size for size, _ in rows)
    found = [row for _, row in rows]
    return found if last is None or found[-1] is last else [*found, last]


def whole_lines(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    """Size and object of each whole line."""
    if path.is_file():
        with path.open("rb") as file:
            for line in _bounded(file):
                with contextlib.suppress(ValueError, RecursionError):
                    row = json.loads(line.decode("utf-8", "replace"))
                    if isinstance(row, dict):
                        yield len(line), row


def _bounded(file: IO[bytes]) -> Iterator[bytes]:
    """The lines of at most MAX_LINE_BYTES; a longer one is read past, never into memory."""
    while line := file.readline(MAX_LINE_BYTES + 1):
        if len(line) <= MAX_LINE_BYTES:
            yield line
        else:
            while line and not line.endswith(b"\n"):
                line = file.readline(MAX_LINE_BYTES + 1)
