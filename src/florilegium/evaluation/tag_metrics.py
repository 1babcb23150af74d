"""Do the tags that a model wrote agree with the row's?

Tags are compared as sets of exact strings. With `right` the tags of a row that were both predicted and wanted:

    micro F1        2 * sum(right) / (sum(predicted) + sum(wanted)), over all rows: frequent tags count most
    macro F1        the mean of each tag's own F1, over the tags that were predicted or wanted, as scikit-learn has it: a rare tag
                    counts as much as a frequent one, and one that nobody wanted counts 0
    precision@k     right among the first k predicted, over k; a row that predicts fewer than k has missed the rest. Its ceiling
                    is below 1 where rows want fewer than k
    repeated        rows in which a tag was written twice; all else counts it once
    unseen          predicted tags that no training row has
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np

from florilegium.evaluation.confidence import bootstrap_weights, interval_of, mean, ratio, share
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


def tag_scores(predicted: Tags, wanted: Tags, known: Collection[str] | None = None) -> TagScores | None:
    """The scores with their intervals, over the rows that want a tag; None where none does. `known` are the tags of the
    training rows."""
    asked = [(list(mine), set(theirs)) for mine, theirs in zip(predicted, wanted, strict=True) if theirs]
    if not asked:
        return None
    pairs = [(list(dict.fromkeys(mine)), theirs) for mine, theirs in asked]
    right = [len(set(mine) & theirs) for mine, theirs in pairs]
    sizes = [len(mine) + len(theirs) for mine, theirs in pairs]
    first, third = (mean([len(set(mine[:k]) & theirs) / k for mine, theirs in pairs]) for k in PRECISION_AT)
    return TagScores(
        ratio([2 * r for r in right], sizes),
        _macro_f1(pairs),
        first,
        third,
        mean([len(mine) for mine, _ in pairs]),
        len(pairs),
        sum(min(3, len(theirs)) / 3 for _, theirs in pairs) / len(pairs),
        share([len(set(mine)) < len(mine) for mine, _ in asked]),
        None if known is None else _unseen([mine for mine, _ in pairs], known),
        None if known is None else _unseen([sorted(theirs) for _, theirs in pairs], known),
    )


def _unseen(tags: Tags, known: Collection[str]) -> Metric | None:
    """The share of tags that no training row has; None where there are no tags."""
    return ratio([sum(tag not in known for tag in own) for own in tags], [len(own) for own in tags])


def _macro_f1(pairs: Sequence[tuple[list[str], set[str]]]) -> Metric:
    """A resample lacks some tags altogether, and the mean of those that are left is lower by that alone: the interval is
    moved by what the mean of the resamples lies below the value."""
    names = sorted(set().union(*(theirs.union(mine) for mine, theirs in pairs)))
    numbers = {tag: t for t, tag in enumerate(names)}
    predicted_RT, wanted_RT = np.zeros((len(pairs), len(names))), np.zeros((len(pairs), len(names)))
    for r, (mine, theirs) in enumerate(pairs):
        predicted_RT[r, [numbers[tag] for tag in mine]] = 1
        wanted_RT[r, [numbers[tag] for tag in theirs]] = 1
    right_RT, both_RT = predicted_RT * wanted_RT, predicted_RT + wanted_RT

    def score(weight: np.ndarray) -> np.ndarray:
        right, total = weight @ right_RT, weight @ both_RT
        each = np.divide(2 * right, total, out=np.zeros_like(right), where=total > 0)
        return np.asarray(each.sum(-1) / np.maximum((total > 0).sum(-1), 1))

    value, drawn = float(score(np.ones((1, len(pairs))))[0]), score(bootstrap_weights(len(pairs)))
    moved = interval_of(value, drawn + (value - drawn.mean()))
    return Metric(value, max(0.0, min(value, moved.low)), min(1.0, max(value, moved.high)))
