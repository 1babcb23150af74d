"""Are the tuned model's tags better than what a baseline names on the same rows? One sentence, with the paired interval.

    Tags: no difference seen between the tuned model and naive Bayes:
    micro F1 tuned 0.612, naive Bayes 0.634 (-0.022, 95% -0.071 to +0.026); precision@1 ...

The baseline is the one with the highest micro F1 on the held-out rows: chosen on them, which favours the baseline a
little and not the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from florilegium.evaluation.confidence import change_of_ratios
from florilegium.evaluation.metrics import Metric, TagComparison
from florilegium.evaluation.tag_metrics import PRECISION_AT, Tags, tag_f1


@dataclass(frozen=True)
class RowCounts:
    """For each row that wants a tag: tags that are right twice, and predicted and wanted ones; right among the first k,
    by k."""

    twice_right: list[float]
    both: list[float]
    first: dict[int, list[float]]


def row_counts(predicted: Tags, wanted: Tags) -> RowCounts:
    pairs = [(list(dict.fromkeys(mine)), set(theirs)) for mine, theirs in zip(predicted, wanted, strict=True) if theirs]
    return RowCounts(
        [2.0 * len(set(mine) & theirs) for mine, theirs in pairs],
        [float(len(mine) + len(theirs)) for mine, theirs in pairs],
        {k: [len(set(mine[:k]) & theirs) / k for mine, theirs in pairs] for k in PRECISION_AT},
    )


def compare_tags(tuned: Tags, baselines: Mapping[str, tuple[str, Tags]], wanted: Tags) -> TagComparison | None:
    """`baselines` holds, by key, a name for people and the tags that it names. None where no row wants a tag, or there
    is no baseline."""
    if not baselines or not any(wanted):
        return None
    best = max(baselines, key=lambda key: tag_f1(baselines[key][1], wanted))
    name, named = baselines[best]
    mine, other = row_counts(tuned, wanted), row_counts(named, wanted)
    change = change_of_ratios(mine.twice_right, mine.both, other.twice_right, other.both)
    first = {k: _paired(mine.first[k], other.first[k]) for k in PRECISION_AT}
    sentence = _sentence(
        name,
        [
            ("micro F1", sum(mine.twice_right) / sum(mine.both), sum(other.twice_right) / sum(other.both), change),
            ("precision@1", _mean(mine.first[1]), _mean(other.first[1]), first[1]),
        ],
    )
    return TagComparison(best, change, first[1], first[3], sentence)


def _paired(mine: Sequence[float], other: Sequence[float]) -> Metric | None:
    ones = [1.0] * len(mine)
    return change_of_ratios(mine, ones, other, ones)


def _sentence(name: str, found: Sequence[tuple[str, float, float, Metric | None]]) -> str:
    """What micro F1's interval says, and the values of all."""
    change = found[0][3]
    if change is None or change.low <= 0 <= change.high:
        said = f"no difference seen between the tuned model and {name}"
    elif change.low > 0:
        said = f"the tuned model is better than the best baseline, {name}"
    else:
        said = f"{name}, fitted to the same training rows, is better than the tuned model"
    values = [f"{what} tuned {mine:.3f}, {name} {other:.3f}{_interval(paired)}" for what, mine, other, paired in found]
    return f"Tags: {said}: {'; '.join(values)}"


def _interval(change: Metric | None) -> str:
    return f" ({change.value:+.3f}, 95% {change.low:+.3f} to {change.high:+.3f})" if change else ""


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
