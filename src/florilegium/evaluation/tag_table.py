"""The tags that stand in the training rows: the most frequent first, those that are as frequent in their alphabet's
order, so that a tie is broken the same way everywhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

MOST_TAGS = 2000


class TagTable:
    """`names` of the known tags (of more than 2,000 the most frequent), `rows[r]` the numbers of training row r's tags,
    `share_T` how many of the rows have each."""

    def __init__(self, tags: Sequence[Sequence[str]], most: int = MOST_TAGS) -> None:
        counts = Counter(tag for own in tags for tag in dict.fromkeys(own))
        ordered = sorted(counts, key=lambda tag: (-counts[tag], tag))[:most]
        self.names = tuple(ordered)
        self.numbers = {tag: number for number, tag in enumerate(ordered)}
        self.rows = [np.array(sorted({self.numbers[t] for t in own if t in self.numbers}), np.int64) for own in tags]
        self.share_T = np.array([counts[tag] for tag in ordered], dtype=np.float64) / max(1, len(tags))

    def ranked(self, scores_T: np.ndarray, size: int) -> list[str]:
        """The `size` tags that score highest; the more frequent first where scores tie."""
        return [self.names[t] for t in np.argsort(-scores_T, kind="stable")[:size]]

    def right(self, wanted: Sequence[Sequence[str]]) -> np.ndarray:
        """Which known tags are a row's own: bool [rows, tags]."""
        return np.array([[name in own for name in self.names] for own in map(set, wanted)], dtype=bool)
