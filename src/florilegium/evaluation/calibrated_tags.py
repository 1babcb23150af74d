"""How good are the probabilities that a model gives the known tags, and the tags that pass a threshold?

    average precision     of the tags ranked by probability: the mean, over a row's own tags, of the share of right tags down to it.
                          1 where all of them come first
    threshold             the probability at which micro F1 is highest on *other* rows; the most likely tag is always named

Where there are validation rows the threshold is chosen on them, and else on four fifths of the rows for the other fifth,
in turn: no row has a say in its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from florilegium.evaluation.confidence import mean
from florilegium.evaluation.metrics import Metric

FOLDS = 5


def average_precision(scores_RT: np.ndarray, right_RT: np.ndarray) -> Metric | None:
    """Mean average precision over the rows that have a known tag; ties go to the tag that comes first. `right_RT`: bool."""
    found = []
    for scores_T, right_T in zip(scores_RT, right_RT, strict=True):
        ranked = right_T[np.argsort(-scores_T, kind="stable")]
        if ranked.any():
            found.append(float((ranked.cumsum() / np.arange(1, len(ranked) + 1))[ranked].mean()))
    return mean(found)


def best_threshold(scores_RT: np.ndarray, right_RT: np.ndarray) -> float:
    """The score at which micro F1 is highest, of several the lowest: one sort, then sums over the tags from the likeliest
    down. Tags of one score pass together, and the best of each row passes from the start."""
    best_R = scores_RT.argmax(1)
    is_best_RT = np.zeros(scores_RT.shape, dtype=bool)
    is_best_RT[np.arange(len(scores_RT)), best_R] = True
    order_N = np.argsort(-scores_RT, axis=None, kind="stable")
    scores_N, right_N, later_N = (x.ravel()[order_N] for x in (scores_RT, right_RT, ~is_best_RT))
    named_N = len(scores_RT) + later_N.cumsum()
    hits_N = (right_RT & is_best_RT).sum() + (right_N & later_N).cumsum()
    ends_K = np.flatnonzero(np.append(scores_N[1:] != scores_N[:-1], True))  # the last of each score
    f1_K = 2 * hits_N[ends_K] / np.maximum(1, named_N[ends_K] + right_RT.sum())
    return float(scores_N[ends_K][::-1][f1_K[::-1].argmax()])


def passing(scores_RT: np.ndarray, threshold: float) -> np.ndarray:
    """Which tags are named, bool: those at the threshold or above, and the best of each row."""
    named_RT = scores_RT >= threshold
    named_RT[np.arange(len(scores_RT)), scores_RT.argmax(1)] = True
    return np.asarray(named_RT)


def cross_fitted(scores_RT: np.ndarray, right_RT: np.ndarray) -> np.ndarray:
    """Which tags are named, each fold's rows by the threshold of the others."""
    fold_R = np.arange(len(scores_RT)) % FOLDS
    named_RT = np.zeros(scores_RT.shape, dtype=bool)
    for fold in range(min(FOLDS, len(scores_RT))):
        own = fold_R == fold
        at = best_threshold(scores_RT[~own], right_RT[~own]) if (~own).any() else 0.5
        named_RT[own] = passing(scores_RT[own], at)
    return named_RT


def named(names: Sequence[str], scores_RT: np.ndarray, named_RT: np.ndarray) -> list[list[str]]:
    """The tags that are named, the most likely first."""
    return [
        [names[t] for t in np.argsort(-scores_T, kind="stable") if named_T[t]]
        for scores_T, named_T in zip(scores_RT, named_RT, strict=True)
    ]
