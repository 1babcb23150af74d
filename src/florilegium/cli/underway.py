"""What a run does beside its steps (held-out rows, samples, the verdict's texts), as the line that moves meanwhile, and the
time that it has left.

    evaluating 64 held-out rows  50%  ETA 0:02"""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.text import Text

from florilegium.errors import clock

SHOWN_FROM = 0.3  # seconds: what is over sooner would only flicker


class Underway:
    """The part that is under way, if one is. The time left is that of its share that is done; before the first share,
    what the same part took last time."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.now = now
        self.what = ""
        self.took: dict[str, float] = {}  # seconds of the parts that were done before
        self.began = 0.0
        self.share = 0.0

    def tell(self, what: str, done: int, total: int) -> bool:
        """Whether it goes on."""
        if what != self.what:
            self.what, self.began = what, self.now()
        self.share = done / max(1, total)
        if done >= total:
            self.took[what], self.what = self.now() - self.began, ""
        return bool(self.what)

    def line(self) -> Text | None:
        """None where there is nothing, or not yet enough."""
        passed = self.now() - self.began
        if not self.what or passed < SHOWN_FROM:
            return None
        share = f"  {self.share:.0%}" if self.share else ""
        left = self._left(passed)
        return Text(f"{self.what}{share}" + (f"  {clock(passed)} so far" if left is None else f"  ETA {clock(left)}"))

    def _left(self, passed: float) -> float | None:
        if self.share:
            return passed / self.share * (1 - self.share)
        before = self.took.get(self.what)
        return None if before is None else max(0.0, before - passed)
