"""Do the tags fit the quote, as judged by the training rows? A judge that is not the adapter's own base.

    fit(tags, text) = mean over the tags of the tag's score among the training rows nearest to the text, by tf-idf
    lift            = fit beside the own quote - mean fit beside all other quotes
    wins            = how often it is higher beside the own quote than beside another; a tie is half a win, chance 0.5

A text's scores add up to 1 over all tags, so that a text which is like many rows is no better home for every tag. A tag
that no training row has scores 0 everywhere. The control is that of `relevance.py`: the same tags, dealt out anew."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from florilegium.evaluation.confidence import mean
from florilegium.evaluation.metrics import TagMatch, TagRelevance
from florilegium.evaluation.tag_table import TagTable

FEWEST_ROWS, FEWEST_SHARE = 3, 0.1


def writes_tags(tags: Sequence[Sequence[str]]) -> bool:
    """Whether there are tags to judge: in three rows and in a tenth of all. A side that hardly writes any has no
    relevance, rather than that of the few."""
    count = sum(map(bool, tags))
    return count >= FEWEST_ROWS and count >= FEWEST_SHARE * len(tags)


def writes_known_tags(tags: Sequence[Sequence[str]], own: Sequence[Sequence[str]], table: TagTable) -> bool:
    """Whether what a side wrote in the tags' place is tags. A base model continues in prose there, which parses as tags,
    and repeats the quote's words, which fit it: where the rows' `own` tags are known, and hardly a row of the side's has
    one that is, it has no match."""
    known, expected = ([[t for t in row if t in table.numbers] for row in side] for side in (tags, own))
    return writes_tags(known) or not writes_tags(expected)


def rows_relevance(
    scores_RT: np.ndarray, table: TagTable, tags: Sequence[Sequence[str]], seed: int = 0
) -> TagRelevance | None:
    """The match of `tags[r]` with text r, of which `scores_RT[r]` are each known tag's scores. None for a side that
    writes no tags."""
    rows = [r for r, own in enumerate(tags) if own]
    if not writes_tags(tags):
        return None
    share_RT = scores_RT[rows] / np.maximum(scores_RT[rows].sum(1, keepdims=True), 1e-300)
    fit_RR = np.stack([_fit(share_RT, table, tags[r]) for r in rows])  # [tags of a row, text of a row]
    order = list(range(len(rows)))
    random.Random(f"florilegium relevance {seed}").shuffle(order)
    place = np.empty(len(rows), dtype=np.int64)
    place[order] = np.roll(order, -1)  # one cycle: nobody keeps his own
    return TagRelevance(_match(fit_RR, np.arange(len(rows))), _match(fit_RR, place), len(rows))


def _fit(share_RT: np.ndarray, table: TagTable, tags: Sequence[str]) -> np.ndarray:
    own = list(dict.fromkeys(tags))
    return np.asarray(share_RT[:, [table.numbers[tag] for tag in own if tag in table.numbers]].sum(1) / len(own))


def _match(fit_RR: np.ndarray, home_R: np.ndarray) -> TagMatch:
    """How the tags of row r fit text `home_R[r]`, against all other texts."""
    home_R1, others = fit_RR[np.arange(len(fit_RR)), home_R][:, None], len(fit_RR) - 1
    wins_RR = (home_R1 > fit_RR) + 0.5 * (home_R1 == fit_RR)  # beside itself it is half a win, which is taken off
    lift_R = home_R1[:, 0] - (fit_RR.sum(1) - home_R1[:, 0]) / others
    return TagMatch(mean(lift_R), mean((wins_RR.sum(1) - 0.5) / others))
