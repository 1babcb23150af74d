"""Do the tags that a model wrote agree with the row's?

Tags are compared as sets of exact strings. With `right` the tags of a row that were both predicted and wanted:

    micro F1        2 * sum(right) / (sum(predicted) + sum(wanted)), over all rows: frequent tags count most
    macro F1        the mean of each tag's own F1, over the tags that the rows want: a rare tag counts as much as a frequent one
    precision@k     right among the first k predicted, over k; a row that predicts fewer than k has missed the rest
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from florilegium.evaluation.confidence import bootstrap_weights, interval_of, mean, ratio
from florilegium.evaluation.metrics import Metric, TagScores

Tags = Sequence[Sequence[str]]
PRECISION_AT = (1, 3)


def tag_f1(predicted: Tags, wanted: Tags) -> float:
    """Micro F1: 2 * right / (predicted + wanted) over all rows' tags, a tag counted once a row; 0 where nothing is
    right."""
    right = total = 0
    for mine, theirs in zip(predicted, wanted, strict=True):
        right += len(set(mine) & set(theirs))
        total += len(set(mine)) + len(set(theirs))
    return 2 * right / total if total else 0.0


def most_frequent_tags(rows: Tags) -> list[str]:
    """The answer of a model that knows only which tags are common: as many of the most frequent as a row has on
    average."""
    counts = Counter(tag for tags in rows for tag in tags)
    size = max(1, round(sum(len(tags) for tags in rows) / max(1, len(rows))))
    return [tag for tag, _ in counts.most_common(size)]


def tag_scores(predicted: Tags, wanted: Tags) -> TagScores | None:
    """Micro and macro F1 and precision@k with their intervals, over the rows that want a tag; None where none does."""
    pairs = [(list(dict.fromkeys(mine)), set(theirs)) for mine, theirs in zip(predicted, wanted, strict=True) if theirs]
    if not pairs:
        return None
    right = [len(set(mine) & theirs) for mine, theirs in pairs]
    sizes = [len(mine) + len(theirs) for mine, theirs in pairs]
    first, third = (mean([len(set(mine[:k]) & theirs) / k for mine, theirs in pairs]) for k in PRECISION_AT)
    micro, tags_a_row = ratio([2 * r for r in right], sizes), mean([len(mine) for mine, _ in pairs])
    return TagScores(micro, _macro_f1(pairs), first, third, tags_a_row, len(pairs))


def _macro_f1(pairs: Sequence[tuple[list[str], set[str]]]) -> Metric:
    known = {tag: t for t, tag in enumerate(sorted(set().union(*(theirs for _, theirs in pairs))))}
    predicted_RT, wanted_RT = np.zeros((len(pairs), len(known))), np.zeros((len(pairs), len(known)))
    for r, (mine, theirs) in enumerate(pairs):
        predicted_RT[r, [known[tag] for tag in mine if tag in known]] = 1
        wanted_RT[r, [known[tag] for tag in theirs]] = 1
    right_RT = predicted_RT * wanted_RT

    def score(weight: np.ndarray) -> np.ndarray:
        right, total, wanted = weight @ right_RT, weight @ (predicted_RT + wanted_RT), weight @ wanted_RT
        each = np.divide(2 * right, total, out=np.zeros_like(right), where=total > 0)
        there = wanted > 0  # a resample may lack a tag altogether
        return np.asarray((each * there).sum(-1) / np.maximum(there.sum(-1), 1))

    return interval_of(float(score(np.ones((1, len(pairs))))[0]), score(bootstrap_weights(len(pairs))))
