"""Texts as the sets of what stands in them, for the baselines: words, and runs of four and five letters inside a word.

    Be kind.   ->   be, kind, <be>, <kin, kind, ind>, <kind, kind>

The runs stand in for a stemmer and know no language: `kindness` and `kind` share `<kin`, `kind`, `<kind`. Words are
folded as everywhere (`data/words.py`); of a text longer than 256 words the first 256 count. Nothing here has seen a
held-out row: a feature that no training text has is dropped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from florilegium.data.words import fold

MOST_WORDS = 256
RUNS = (4, 5)


def features(text: str) -> set[str]:
    """What stands in a text."""
    found: set[str] = set()
    for word in fold(text)[:MOST_WORDS]:
        found.add(word)
        edged = f"<{word}>"
        found.update(edged[i : i + n] for n in RUNS for i in range(len(edged) - n + 1))
    return found


class Postings:
    """For each key the values that stand with it, in order, and how often: `keys[i]` stands with `values[i]`."""

    def __init__(self, keys: np.ndarray, values: np.ndarray, num_keys: int, num_values: int) -> None:
        pairs, self._counts = np.unique(keys.astype(np.int64) * max(1, num_values) + values, return_counts=True)
        self._values = pairs % max(1, num_values)
        self._starts = np.searchsorted(pairs // max(1, num_values), np.arange(num_keys + 1))

    def of(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All pairs of these keys: the place of the key in `keys`, the value, how often they stand together."""
        spans = [slice(self._starts[key], self._starts[key + 1]) for key in keys]
        places = np.repeat(np.arange(len(keys)), self._starts[keys + 1] - self._starts[keys])
        return places, flat([self._values[span] for span in spans]), flat([self._counts[span] for span in spans])


class TextIndex:
    """The training texts as feature numbers; `rows[r]` are those of text r, ascending."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.numbers: dict[str, int] = {}
        self.rows = [np.array(list(self._numbered(text)), dtype=np.int64) for text in texts]
        for row in self.rows:
            row.sort()
        self.rows_with = Postings(flat(self.rows), owners(self.rows), len(self.numbers), len(self.rows))

    def ids(self, text: str) -> np.ndarray:
        """The features of another text that a training text has too: int64, ascending."""
        found = (self.numbers.get(name) for name in features(text))
        return np.array(sorted(number for number in found if number is not None), dtype=np.int64)

    def _numbered(self, text: str) -> Iterator[int]:
        for name in sorted(features(text)):  # a set's own order changes from one process to the next
            yield self.numbers.setdefault(name, len(self.numbers))


def flat(rows: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(rows) if len(rows) else np.zeros(0, dtype=np.int64)


def owners(rows: Sequence[np.ndarray]) -> np.ndarray:
    """For each number in `flat(rows)` the row it is of."""
    return np.repeat(np.arange(len(rows)), [len(row) for row in rows])
