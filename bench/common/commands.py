"""Commands of a bench that take minutes: each in a process of its own with an end to its time, what it prints passed on
as it comes, with the seconds since the bench began in front."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BEGAN = time.monotonic()
SAVING = 40  # seconds that a command has to save in, once it is told to stop
SHORTEST = 45  # seconds under which no command is begun


def say(line: str) -> None:
    print(f"{time.monotonic() - BEGAN:6.1f}  {line}", flush=True)


@dataclass
class Command:
    """`python -m` these words, until it ends, `is_enough` says so, or its seconds are over: it then gets SIGTERM."""

    words: list[str]
    seconds: float
    is_enough: Callable[[], bool] = lambda: False
    lines: list[str] = field(default_factory=list)  # what it printed
    code: int | None = None

    def run(self) -> Command:
        say(f"$ python -m {' '.join(self.words)}")
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", *self.words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"},
        )
        threading.Thread(target=self._watch, args=(process,), daemon=True).start()
        assert process.stdout is not None
        for line in process.stdout:
            self.lines.append(line)
            if line.strip():
                say(line.rstrip()[:400])
        self.code = process.wait()
        say(f"exit code {self.code} after {time.monotonic() - began:.0f} s")
        return self

    def _watch(self, process: subprocess.Popen[str]) -> None:
        end = time.monotonic() + self.seconds
        while process.poll() is None and time.monotonic() < end and not self.is_enough():
            time.sleep(0.2)
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(SAVING)
            except subprocess.TimeoutExpired:
                process.kill()


def run_until(end: float, *words: str, is_enough: Callable[[], bool] = lambda: False) -> Command | None:
    """A command that is stopped at `end` (of `time.monotonic`); None where too little time is left to begin it."""
    left = end - time.monotonic()
    if left < SHORTEST:
        say(f"no time left for: {' '.join(words)}")
        return None
    return Command(list(words), left, is_enough).run()


def steps_of(metrics: Path) -> list[dict[str, Any]]:
    """The steps in a run's metrics.jsonl; a line that is being written is left out."""
    if not metrics.is_file():
        return []
    lines = metrics.read_text(encoding="utf-8").split("\n")[:-1]
    return [row for row in map(json.loads, lines) if "loss" in row]
