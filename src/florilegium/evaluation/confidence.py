"""How far a metric can be trusted: 95% intervals by the bootstrap (Efron 1979), over rows; Wilson's for shares of
texts.

The tokens of one quote hang together, so a row is drawn or not drawn as a whole; an interval over tokens would be too
narrow. All metrics here are ratios of sums, `sum(above) / sum(below)` over rows: a loss per token, a share, a micro F1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from florilegium.evaluation.metrics import Metric

RESAMPLES = 1000
Numbers = Sequence[float] | np.ndarray
SEED = 0


@lru_cache(maxsize=4)
def bootstrap_weights(rows: int) -> np.ndarray:
    """How often each row is drawn in each resample: float64 [RESAMPLES, rows]; the same for the same number of rows, so
    that two models are compared on the same draws."""
    return np.random.default_rng(SEED).multinomial(rows, [1 / rows] * rows, size=RESAMPLES).astype(np.float64)


def ratio(above: Numbers, below: Numbers, transform: Callable[[Any], Any] = lambda x: x) -> Metric | None:
    """transform(sum(above) / sum(below)) with its interval; None where there is nothing below the line."""
    a, b = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    if not len(a) or not b.sum():
        return None
    weight = bootstrap_weights(len(a))
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = (weight @ a) / (weight @ b)
    return interval_of(transform(a.sum() / b.sum()), transform(drawn[np.isfinite(drawn)]))


def mean(values: Numbers) -> Metric | None:
    """The mean of a number a row, with its interval."""
    return ratio(values, [1.0] * len(values))


def share(flags: Sequence[bool]) -> Metric | None:
    """How many of them are true, with Wilson's score interval (1927): of 200 texts without a copy the bootstrap would
    say "0, for certain", where up to 2% may be copies."""
    n, z = len(flags), 1.959964
    if not n:
        return None
    p = sum(flags) / n
    centre, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = ((centre + sign * spread) / (1 + z * z / n) for sign in (-1, 1))
    return Metric(p, max(0.0, min(low, p)), min(1.0, max(high, p)))


def difference(above: Numbers, other: Numbers, below: Numbers) -> Metric | None:
    """sum(above - other) / sum(below): what changed between two models on the same rows, paired row by row."""
    return ratio(np.asarray(above, dtype=np.float64) - np.asarray(other, dtype=np.float64), below)


def change_of_ratios(above: Numbers, below: Numbers, other_above: Numbers, other_below: Numbers) -> Metric | None:
    """sum(above) / sum(below) - sum(other_above) / sum(other_below): how far two answers to the same rows lie apart,
    paired, so that a row that is hard for both counts for neither. None where there is nothing below a line."""
    a, b, c, d = (np.asarray(x, dtype=np.float64) for x in (above, below, other_above, other_below))
    if not len(a) or not b.sum() or not d.sum():
        return None
    weight = bootstrap_weights(len(a))
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = (weight @ a) / (weight @ b) - (weight @ c) / (weight @ d)
    return interval_of(a.sum() / b.sum() - c.sum() / d.sum(), drawn[np.isfinite(drawn)])


def interval_of(value: float, drawn: np.ndarray) -> Metric:
    """`value` with the interval of what `drawn` came to, a number for each resample."""
    low, high = np.percentile(drawn, [2.5, 97.5]) if len(drawn) else (value, value)
    return Metric(float(value), float(low), float(high))
