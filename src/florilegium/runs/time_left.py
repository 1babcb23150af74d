"""How long an evaluation will still take, behind the line that starts each phase of it.

    tuned  200 unconditional samples  (about 50 s left)

What the phases cost beside one another is known; how fast this machine is shows from those that are done."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from florilegium.errors import roughly
from florilegium.runs.recorder import NullView, ProgressView

TOLD_FROM = 5.0  # seconds: from when on a guess is worth a word
SHARE_DONE = 0.01  # of the work: of less the rest cannot be told


@dataclass(frozen=True)
class Phase:
    """A part of the work: its name, by which it is started, and what it costs in any unit."""

    name: str
    cost: float


def evaluation_phases(rows: int, generations: int, *, has_base: bool) -> list[Phase]:
    """Of `runs/evaluate.py`, in seconds of one core with the demo model. A base that never learned to end costs more."""
    found = []
    for side, tags, sample in (("tuned", 0.018, 0.058), *((("base", 0.065, 0.14),) if has_base else ())):
        found.append(Phase(f"{side} losses", 0.015 * rows))
        found.append(Phase(f"{side} tags", tags * rows))
        found.append(Phase(f"{side} samples", sample * generations))
    match = 0.08 * rows  # whether tags fit: of the rows' own, then of each side's
    last = found.pop()
    found += [Phase(last.name, last.cost + match), Phase("baselines", 1.8)]
    found += [Phase(f"{side} copies", match) for side in ("tuned", "base")[: 1 + has_base]]
    return [*found, Phase("general text", 7.0)]


class TimeLeft(NullView):
    """Passes lines on to `view`, those of `start` with the time left. Phases start in their order; one that is left out
    costs nothing, and of one that is not known no time is told."""

    def __init__(
        self, view: ProgressView, phases: Sequence[Phase], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.view, self.phases, self.clock = view, phases, clock
        self.began = clock()
        self.now = -1

    def underway(self, what: str, done: int, total: int) -> None:
        self.view.underway(what, done, total)

    def say(self, line: str) -> None:
        self.view.say(line)

    def start(self, name: str, line: str) -> None:
        """Says `line` as the phase `name` starts."""
        started = next((i for i in range(self.now + 1, len(self.phases)) if self.phases[i].name == name), None)
        if started is None:
            self.view.say(line)
            return
        if self.now < 0:
            self.began = self.clock()  # loading is no measure of the rest
        self.now = started
        done = sum(phase.cost for phase in self.phases[:started])
        seconds = self.clock() - self.began
        total = sum(phase.cost for phase in self.phases)
        left = seconds / done * (total - done) if done > SHARE_DONE * total else 0.0
        self.view.say(f"{line}  (about {roughly(left)} left)" if max(seconds, left) >= TOLD_FROM and left else line)
