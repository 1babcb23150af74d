"""What is asked in a round of the benchmark, what came of it, and the processes that do it: one line of JSON each way."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

OPENINGS = (
    "Be kind", "The sea is", "A friend who", "Time", "When you have nothing left to say, say", "Hope", "No one",
    "Every door that",
)  # fmt: skip


@dataclass(frozen=True)
class Ask:
    """A text to write: text number 0 of this seed, at the server's own defaults but for the length."""

    prompt: str
    seed: int


@dataclass(frozen=True)
class Round:
    """Each client sends its requests one after another, all clients at once; `tokens` at most a text."""

    clients: list[list[Ask]]
    tokens: int

    @classmethod
    def of(cls, clients: int, requests: int, tokens: int) -> Self:
        ask = [[Ask(OPENINGS[(i + r) % len(OPENINGS)], 1000 * r + i) for r in range(requests)] for i in range(clients)]
        return cls(ask, tokens)

    @classmethod
    def read(cls, line: str) -> Self:
        values = json.loads(line)
        return cls([[Ask(**ask) for ask in asks] for asks in values["clients"]], values["tokens"])

    def split(self, parts: int) -> list[Self]:
        """The same round, a share of the clients each."""
        return [type(self)(self.clients[i::parts], self.tokens) for i in range(parts)]


@dataclass
class Written:
    """`began` and `ended` on the machine's monotonic clock; seconds to first tokens and between tokens; texts by seed."""

    began: float
    ended: float
    tokens: int = 0
    first: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        return self.tokens / (self.ended - self.began)

    def add(self, began: float, times: Sequence[float], tokens: int, seed: int, text: str) -> None:
        """A text: when it was asked for, when its tokens came, how many there were."""
        self.tokens += tokens
        self.first.append(times[0] - began)
        self.between += [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
        self.texts[str(seed)] = text

    def joined(self, other: Written) -> Written:
        return Written(
            min(self.began, other.began), max(self.ended, other.ended), self.tokens + other.tokens,
            self.first + other.first, self.between + other.between, self.texts | other.texts,
        )  # fmt: skip


class Child:
    """A process of a side of the benchmark; it says a line when it is ready."""

    def __init__(self, module: str, *arguments: str | Path) -> None:
        self.command = [sys.executable, "-m", module, *map(str, arguments)]
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ready: Any = self.line()

    def line(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(self.command)} ended with {self.process.wait()}")
        return json.loads(line)

    def send(self, round: Round) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(asdict(round)) + "\n")
        self.process.stdin.flush()

    def run(self, round: Round) -> Written:
        self.send(round)
        return Written(**self.line())

    def end(self) -> None:
        self.process.terminate()
        self.process.wait()


def rounds_asked() -> Iterator[Round]:
    """In a child: says that it is ready, then what it is asked, until nobody asks any more."""
    print("{}", flush=True)
    for line in sys.stdin:
        yield Round.read(line)


def answer(written: Written) -> None:
    print(json.dumps(asdict(written)), flush=True)
