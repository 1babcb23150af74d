"""A florilegium command in a process of its own: what the page trains and reads, the terminal would do the same way.

Its process can be stopped by a signal, after which it saves and ends (`signals.py`); a crash or a full memory takes
nothing of the server with it. It is no member of the server's group: Ctrl-C there reaches it once, from here."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections import deque
from dataclasses import dataclass, field

from florilegium.errors import one_line

MOST_LINES, MOST_OUTPUT = 200, 64 * 2**20
SECRETS = ("FLORILEGIUM_API_KEY",)


@dataclass
class Child:
    """`said` are its last lines on stderr; `output` what it wrote to stdout, whole once `done` is."""

    process: asyncio.subprocess.Process
    said: deque[str] = field(default_factory=lambda: deque(maxlen=MOST_LINES))
    output: bytearray = field(default_factory=bytearray)

    @classmethod
    async def start(cls, *arguments: str) -> Child:
        environment = {name: value for name, value in os.environ.items() if name not in SECRETS}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "florilegium", *arguments,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env={**environment, "NO_COLOR": "1"}, start_new_session=True,
        )  # fmt: skip
        return cls(process)

    async def wait(self) -> int:
        """Its exit code, when it has ended; meanwhile what it says is taken in."""
        await asyncio.gather(self._listen(), self._take_output())
        return await self.process.wait()

    def stop(self) -> None:
        """Asks it to save and end."""
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    @property
    def running(self) -> bool:
        return self.process.returncode is None

    @property
    def failure(self) -> str:
        """The line in which an expected failure is told, without the program's name."""
        return ". ".join(filter(None, self.told))

    @property
    def told(self) -> tuple[str, str]:
        """The same as its cause and what to do about it."""
        told = [line for line in self.said if line.startswith("florilegium: ")]
        last = told[-1] if told else next(reversed(self.said), "the process exited without output")
        return one_line(
            last.removeprefix("florilegium: ")
        ), "" if told else "Try the same in a terminal, which shows more"

    async def _listen(self) -> None:
        assert self.process.stderr is not None
        rest = ""
        while piece := await self.process.stderr.read(65_536):
            *lines, rest = (rest + piece.decode("utf-8", "replace"))[-1_000_000:].split("\n")
            self.said.extend(line.rstrip() for line in lines if line.strip())
        if rest.strip():
            self.said.append(rest.rstrip())

    async def _take_output(self) -> None:
        assert self.process.stdout is not None
        while piece := await self.process.stdout.read(65_536):
            if len(self.output) < MOST_OUTPUT:
                self.output += piece
