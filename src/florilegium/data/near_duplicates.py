"""Which rows are nearly the same text: the pairs that must not be both trained and tested on.

    “I'm not young enough to know everything.”        “I am not young enough to know everything.”
    “May the odds be ever in your favor!”             “Happy Hunger Games! And may the odds be ever in your favor.”

Texts are compared as words (`words.py`). Two are near when

    Dice          2 * shared / (one's + other's) >= 1/2 of their two-word runs (Dice 1945): the same text, edited
    containment   3/4 of the three-word runs of the shorter one, five runs or more, are in the longer: an excerpt

and what they share is not what many others share, too: weighed by rarity (log N / 20 holders, as inverse document
frequency; Spärck Jones 1972), the shared runs are a third of the lighter text, and a tenth of what the shorter one's
would weigh if no other row held them. "What do you call a ..." weighs nothing in a file of such questions; where all
that is shared is so common, Dice must be 0.85. And every number in the shorter
stands in the longer: "Chapter 3" is no copy of "Chapter 4".

Both rules need at least half of the shorter text's two-word runs to be shared, so each text's rarest half (and one
more) finds every partner in an index of all runs. That is the prefix filter of set-similarity joins (Chaudhuri et al.
2006; Bayardo et al. 2007): exact where MinHash is a gamble, and quick because rare runs are rare. Only runs that more
than `MOST_HOLDERS` rows share are not followed. Of more than `EXACT_ROWS` rows two shared runs are asked for, and fewer
holders followed: the time stays in proportion to the rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from florilegium.data.words import fold

if TYPE_CHECKING:
    import numpy as np

    from florilegium.data.run_index import RunIndex

__all__ = ["Pair", "clusters", "fold", "near_pairs"]

Pair = tuple[int, int]

MOST_HOLDERS, MOST_HOLDERS_OF_MANY = 100, 32
EXACT_ROWS = 20_000
_PAIRS_AT_ONCE = 1 << 17
SHORTEST_EXCERPT = 5  # three-word runs, that is seven words
COMMON, FEWEST_ROWS = 20, 400  # a run with one holder in 20 rows weighs nothing; small files are taken for 400 rows
LEAST_WEIGHT, LEAST_OF_RARE, NEARLY_ALL = 1 / 3, 0.1, 0.85


def near_pairs(texts: Sequence[str], progress: Callable[[str, int], None] | None = None) -> list[Pair]:
    """All pairs (i, j), i < j, of texts that are near, in order."""
    from florilegium.data.run_index import RunIndex  # numpy, which most of the package's users never need

    if len(texts) < 2:
        return []
    index = RunIndex(texts, progress)
    weighed = _Weighed(index)
    is_large = len(texts) > EXACT_ROWS
    found: set[Pair] = set()
    for i, j in index.candidates(MOST_HOLDERS_OF_MANY if is_large else MOST_HOLDERS, at_least=2 if is_large else 1):
        for start in range(0, len(i), _PAIRS_AT_ONCE):
            found.update(weighed.near(i[start : start + _PAIRS_AT_ONCE], j[start : start + _PAIRS_AT_ONCE]))
    return sorted(found)


class _Weighed:
    """The runs of an index with what each weighs, and what those of a row weigh together."""

    def __init__(self, index: RunIndex) -> None:
        import numpy as np

        self.index = index
        self.rarest = np.log(max(len(index.sizes_N), FEWEST_ROWS) / COMMON)
        self.weights_R = np.maximum(0, self.rarest - np.log(index.holders_R))
        self.weights_N = index.weights_of_rows(self.weights_R)

    def near(self, i: np.ndarray, j: np.ndarray) -> Iterator[Pair]:
        """Those of the candidates that are near; i is the shorter of each."""
        import numpy as np

        index = self.index
        shared, weight = index.shared(i, j, self.weights_R)
        dice = 2 * shared / (index.sizes_N[i] + index.sizes_N[j])
        lighter = np.minimum(self.weights_N[i], self.weights_N[j])
        is_rare = (weight >= LEAST_WEIGHT * lighter) & (weight >= LEAST_OF_RARE * self.rarest * index.sizes_N[i])
        is_rare |= dice >= NEARLY_ALL
        for k in np.flatnonzero((2 * shared >= index.sizes_N[i]) & is_rare):
            one, other = index.words_of(i[k]), index.words_of(j[k])
            numbers = {word for word in one if index.is_number[word]}
            if numbers <= set(other) and (dice[k] >= 0.5 or _is_within(one, other)):
                yield (min(int(i[k]), int(j[k])), max(int(i[k]), int(j[k])))


def _is_within(one: list[int], other: list[int]) -> bool:
    """Whether most of a text's three-word runs are in the other."""
    threes = _threes(one)
    return len(threes) >= SHORTEST_EXCERPT and 4 * len(threes & _threes(other)) >= 3 * len(threes)


def _threes(words: list[int]) -> set[tuple[int, ...]]:
    return {tuple(words[k : k + 3]) for k in range(max(1, len(words) - 2))} if words else set()


def clusters(count: int, pairs: Iterable[Pair]) -> list[list[int]]:
    """The rows that pairs connect, directly or through others, each cluster in ascending order, largest first."""
    parent = list(range(count))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    paired: set[int] = set()
    for i, j in pairs:
        a, b = sorted((root(i), root(j)))
        parent[b] = a
        paired.update((i, j))
    found: defaultdict[int, list[int]] = defaultdict(list)
    for i in sorted(paired):
        found[root(i)].append(i)
    return sorted((rows for rows in found.values() if len(rows) > 1), key=lambda rows: (-len(rows), rows))
