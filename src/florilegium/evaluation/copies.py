"""How much of a text stands in the training rows: the longest run of words they share, the nearest row, how much of the
text it holds.

    training row    Be yourself; everyone else is already taken.
    written         Be yourself, everyone else is already here!      longest run 6 words, nearest row that one, containment 4 of 5

A text counts as a copy as in `novelty.py`: a shared run of eight words, or, of a shorter text, a training row word for
word. Numbers of this kind mean little without a measure: the same is asked of held-out rows, which nobody copied (what
chance and idiom alone give), of training rows themselves (all must be found), and of training rows with their words
shuffled (none may be)."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from florilegium.data.novelty import RUN_WORDS, words
from florilegium.evaluation.confidence import mean, share
from florilegium.evaluation.metrics import ClosestText, CopyMetrics, InstrumentCheck

PLANTED = 200
Run = tuple[str, ...]


@dataclass(frozen=True)
class Overlap:
    """`longest`: words of the longest run shared with a training row; `row`: the row that holds most of the text's
    three-word runs (None if none holds one), and `containment` the share that it holds; `copied`: see the top of this
    file."""

    longest: int
    row: int | None
    containment: float
    copied: bool


class TrainingTexts:
    """An index over the training texts: where each run of three words stands."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.rows = [words(text) for text in texts]
        self.places: defaultdict[Run, list[tuple[int, int]]] = defaultdict(list)
        self.shorter: set[Run] = set()  # runs of one and two words: only whether they stand anywhere
        self.whole = {tuple(row) for row in self.rows}
        for r, row in enumerate(self.rows):
            for i in range(len(row)):
                self.shorter.update((tuple(row[i : i + 1]), tuple(row[i : i + 2])))
                if i + 3 <= len(row):
                    self.places[tuple(row[i : i + 3])].append((r, i))

    def overlap(self, text: str) -> Overlap:
        own = words(text)
        longest = max((self._run_from(own, i) for i in range(len(own))), default=0)
        runs = {tuple(own[i : i + 3]) for i in range(len(own) - 2)}
        held = Counter(r for run in runs for r in {r for r, _ in self.places.get(run, ())})
        row, count = max(held.items(), key=lambda item: (item[1], -item[0]), default=(None, 0))
        copied = longest >= RUN_WORDS or (0 < len(own) < RUN_WORDS and tuple(own) in self.whole)
        return Overlap(longest, row, count / len(runs) if runs else 0.0, copied)

    def _run_from(self, own: list[str], start: int) -> int:
        """The longest run from `start` on that stands in a training row."""
        best = next((n for n in (2, 1) if start + n <= len(own) and tuple(own[start : start + n]) in self.shorter), 0)
        for r, i in self.places.get(tuple(own[start : start + 3]), ()):
            row, n = self.rows[r], 3
            while start + n < len(own) and i + n < len(row) and own[start + n] == row[i + n]:
                n += 1
            best = max(best, n)
        return best


def copy_metrics(index: TrainingTexts, texts: Sequence[str]) -> CopyMetrics | None:
    """Means over the texts with their intervals, and the three that share the longest runs with a training row; None
    without texts."""
    found = [index.overlap(text) for text in texts]
    if not found:
        return None
    closest = sorted(range(len(found)), key=lambda i: (-found[i].longest, -found[i].containment, i))[:3]
    return CopyMetrics(
        copied=share([o.copied for o in found]),
        longest_run=mean([float(o.longest) for o in found]),
        longest_run_max=max(o.longest for o in found),
        containment=mean([o.containment for o in found]),
        closest=[
            ClosestText(
                texts[i],
                None if (row := found[i].row) is None else " ".join(index.rows[row]),
                found[i].longest,
                round(found[i].containment, 4),
            )
            for i in closest
        ],
    )


def instrument_check(index: TrainingTexts, texts: Sequence[str], seed: int = 0) -> InstrumentCheck:
    """What the index says of training rows (`planted_found` must be 1) and of the same words shuffled (`shuffled_found`
    must be 0)."""
    chance = random.Random(f"florilegium copies {seed}")
    some = chance.sample(list(texts), min(PLANTED, len(texts)))
    shuffled = []
    for text in some:
        own = words(text)
        if len(set(own)) >= RUN_WORDS:  # of fewer words a shuffle may give the row again
            chance.shuffle(own)
            shuffled.append(" ".join(own))
    planted = [text for text in some if words(text)]
    return InstrumentCheck(
        planted=len(planted),
        planted_found=_share([index.overlap(text).copied for text in planted]),
        shuffled=len(shuffled),
        shuffled_found=_share([index.overlap(text).copied for text in shuffled]),
    )


def _share(found: Sequence[bool]) -> float | None:
    return sum(found) / len(found) if found else None
