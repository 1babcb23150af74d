"""What a metric varies by from one seed to the next, which an interval over rows does not hold.

The interval over rows says what other rows would give for this one adapter. Another seed gives another split, another
start of the adapter and another order of rows. Over n runs: their mean, the standard deviation between them, and
Student's interval of the mean (n - 1 degrees of freedom)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from florilegium.evaluation.metrics import Metric
from florilegium.evaluation.table import SHARE, lookup, written

# the 97.5% quantile of Student's t by degrees of freedom; beyond, the normal's
STUDENT_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
SHOWN = (
    ("tuned.parts.words.loss", "loss of the words", ".3f"),
    ("tuned.parts.tag_words.loss", "loss of tag words", ".3f"),
    ("tuned.loss", "loss of all tokens", ".3f"),
    ("tuned.written_tags.micro_f1", "tag micro F1", ".3f"),
    ("tuned.written_tags.precision_at_1", "precision@1", ".3f"),
    ("tuned.form.format_rate", "well-formed", SHARE),
    ("tuned.copies.copied", "copies", SHARE),
    ("forgetting.change", "loss on general text: change", "+.3f"),
)


@dataclass(frozen=True)
class Spread:
    """A metric over runs: `mean` with Student's interval, `deviation` between runs, the values in the order of seeds."""

    name: str
    style: str
    mean: Metric
    deviation: float
    values: tuple[float, ...]


def spreads(evaluations: Sequence[Mapping[str, object]]) -> list[Spread]:
    """Of each metric that all of `evaluations` (two or more, as evaluation.json has them) have."""
    found = []
    for path, name, style in SHOWN:
        values = [value for one in evaluations if isinstance(value := lookup(one, f"{path}.value"), float)]
        if len(values) == len(evaluations) > 1:
            found.append(spread(name, style, values))
    return found


def spread(name: str, style: str, values: Sequence[float]) -> Spread:
    """Of two values or more."""
    mean, deviation, count = statistics.fmean(values), statistics.stdev(values), len(values)
    t = STUDENT_T[count - 2] if count - 2 < len(STUDENT_T) else 1.96
    half = t * deviation / math.sqrt(count)
    return Spread(name, style, Metric(mean, mean - half, mean + half), deviation, tuple(values))


def spread_rows(report: Mapping[str, object], short: bool = False) -> list[tuple[str, str, str, str]]:
    """(metric, this run with its interval over rows, mean over runs with Student's, deviation between runs) as text, of
    an evaluation that was repeated."""
    metrics = lookup(report, "repeats.metrics")
    paths = {name: path for path, name, _ in SHOWN}
    rows = []
    for one in metrics if isinstance(metrics, list) else []:
        name, style = str(lookup(one, "name")), str(lookup(one, "style"))
        here = written(lookup(report, paths.get(name, "")), style, short)
        mean, deviation = (written(lookup(one, key), style, short) for key in ("mean", "deviation"))
        rows.append((name, here, mean, deviation.lstrip("+")))
    return rows
