"""Numbers that say what a tuned model learned: tag agreement, and how often what it writes has the form it was taught."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def tag_f1(predicted: Sequence[Sequence[str]], wanted: Sequence[Sequence[str]]) -> float:
    """Micro F1: 2 * right / (predicted + wanted) over all rows' tags, a tag counted once a row; 0 where nothing is right."""
    right = total = 0
    for mine, theirs in zip(predicted, wanted, strict=True):
        right += len(set(mine) & set(theirs))
        total += len(set(mine)) + len(set(theirs))
    return 2 * right / total if total else 0.0


def most_frequent_tags(rows: Sequence[Sequence[str]]) -> list[str]:
    """The answer of a model that knows only which tags are common: as many of the most frequent as a row has on average."""
    counts = Counter(tag for tags in rows for tag in tags)
    size = max(1, round(sum(len(tags) for tags in rows) / max(1, len(rows))))
    return [tag for tag, _ in counts.most_common(size)]
