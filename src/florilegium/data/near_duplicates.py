"""Which rows are nearly the same text: the pairs that must not be both trained and examined.

    “I'm not young enough to know everything.”        “I am not young enough to know everything.”
    “May the odds be ever in your favor!”             “Happy Hunger Games! And may the odds be ever in your favor.”

Texts are compared as words, without case, accents, punctuation and broken encoding. Two are near when

    Dice          2 * shared / (one's + other's) >= 1/2 of their two-word runs (Dice 1945): the same text, edited
    containment   3/4 of the three-word runs of the shorter one, five runs or more, are in the longer: an excerpt

and every number in the shorter stands in the longer too: "Chapter 3" is no copy of "Chapter 4".

Both rules need at least half of the shorter text's two-word runs to be shared, so each text's rarest half (and one
more) finds every partner in an index of all runs. That is the prefix filter of set-similarity joins (Chaudhuri et al.
2006; Bayardo et al. 2007): exact where MinHash is a gamble, and quick because rare runs are rare. Only runs that more
than `MOST_HOLDERS` rows share are cut short."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence

from florilegium.data.mojibake import is_broken_text, mend

Pair = tuple[int, int]

MOST_HOLDERS = 100
SHORTEST_EXCERPT = 5  # three-word runs, that is seven words
# Scripts without spaces between words are taken sign by sign.
_WORD = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_]+")
_NOT_WORDS = re.compile(r"['’ʼ`´\u0300-\u036f]")


def fold(text: str) -> list[str]:
    """The words of a text as they are compared: mended, without case, accents and punctuation; "don't" is one word."""
    if not text.isascii():
        text = mend(text) if is_broken_text(text) else text
        text = unicodedata.normalize("NFKD", text)
    return _WORD.findall(_NOT_WORDS.sub("", text).casefold())


def near_pairs(texts: Sequence[str]) -> list[Pair]:
    """All pairs (i, j), i < j, of texts that are near, in order."""
    rows = [_Row(fold(text)) for text in texts]
    holders: defaultdict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        for run in row.twos:
            holders[run].append(i)
    pairs: set[Pair] = set()
    for i, row in enumerate(rows):
        rarest = sorted(row.twos, key=lambda run: (len(holders[run]), run))[: len(row.twos) // 2 + 1]
        partners = {j for run in rarest for j in holders[run][:MOST_HOLDERS] if j != i}
        pairs |= {
            (min(i, j), max(i, j)) for j in partners if len(rows[j].twos) >= len(row.twos) and row.is_near(rows[j])
        }
    return sorted(pairs)


def clusters(count: int, pairs: Iterable[Pair]) -> list[list[int]]:
    """The rows that pairs connect, directly or through others, each cluster in ascending order, largest first."""
    parent = list(range(count))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for i, j in pairs:
        a, b = sorted((root(i), root(j)))
        parent[b] = a
    found: defaultdict[int, list[int]] = defaultdict(list)
    for i in range(count):
        found[root(i)].append(i)
    return sorted((rows for rows in found.values() if len(rows) > 1), key=lambda rows: (-len(rows), rows))


class _Row:
    """A text as its runs of words."""

    __slots__ = ("numbers", "twos", "words")

    def __init__(self, words: list[str]) -> None:
        self.words = words
        self.twos = _runs(words, 2)
        self.numbers = {word for word in words if word.isdigit()}

    def is_near(self, longer: _Row) -> bool:
        shared = len(self.twos & longer.twos)
        if 2 * shared < len(self.twos) or not self.numbers <= longer.numbers:
            return False
        return 4 * shared >= len(self.twos) + len(longer.twos) or self._is_within(longer)

    def _is_within(self, longer: _Row) -> bool:
        threes = _runs(self.words, 3)
        return len(threes) >= SHORTEST_EXCERPT and 4 * len(threes & _runs(longer.words, 3)) >= 3 * len(threes)


def _runs(words: list[str], length: int) -> set[str]:
    """The runs of `length` words; of a text that has fewer, the whole; of none, nothing."""
    if not words:
        return set()
    return {" ".join(words[i : i + length]) for i in range(max(1, len(words) - length + 1))}
