"""How varied and how repetitive are the texts that a model wrote without a prompt?

distinct-n      different n-word runs over all of them (Li et al. 2016), in the first so many words of each side, since it falls with
                the amount of text
repetitive      a run of words that stands there three times in a row, a single word four times
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from florilegium.data.novelty import words

LONGEST_REPEAT = 12  # words


def distinct_n(texts: Sequence[str], n: int, most_words: int) -> float | None:
    """Different n-word runs over all of them, in texts that come first and have `most_words` words together; no run
    crosses texts."""
    seen: Counter[tuple[str, ...]] = Counter()
    left = most_words
    for text in texts:
        own = words(text)[:left]
        left -= len(own)
        seen.update(tuple(own[i : i + n]) for i in range(len(own) - n + 1))
    return len(seen) / seen.total() if seen else None


def is_repetitive(text: str) -> bool:
    """Whether a run of words stands there several times in a row."""
    own = words(text)
    for size in range(1, LONGEST_REPEAT + 1):
        times = 4 if size == 1 else 3
        streak = 0
        for i in range(size, len(own)):
            streak = streak + 1 if own[i] == own[i - size] else 0
            if streak >= size * (times - 1):
                return True
    return False
