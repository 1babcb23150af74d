"""Relevance judged by training rows: by hand, against a plain loop, and what chance and perfect tags come to."""

from __future__ import annotations

import random

import numpy as np
import pytest

from florilegium.evaluation import rows_relevance
from florilegium.evaluation.rows_relevance import writes_known_tags, writes_tags
from florilegium.evaluation.tag_table import TagTable

TABLE = TagTable([["a"], ["b"], ["c"], ["d"]])


def test_equals_a_plain_loop() -> None:
    chance = random.Random(2)
    scores = np.array([[chance.randrange(0, 4) + 0.5 for _ in TABLE.names] for _ in range(30)])
    tags = [chance.sample("abcdz", chance.randrange(0, 3)) for _ in range(30)]
    found = rows_relevance(scores, TABLE, tags)
    rows = [r for r, own in enumerate(tags) if own]

    def fit(tags_of: int, text: int) -> float:
        share = {tag: scores[text][t] / sum(scores[text]) for t, tag in enumerate(TABLE.names)}
        return sum(share.get(tag, 0.0) for tag in tags[tags_of]) / len(tags[tags_of])

    lifts, wins = [], []
    for r in rows:
        others = [fit(r, other) for other in rows if other != r]
        lifts.append(fit(r, r) - sum(others) / len(others))
        wins.append(sum(1.0 if fit(r, r) > x else 0.5 if fit(r, r) == x else 0.0 for x in others) / len(others))
    assert found is not None and found.rows == len(rows)
    assert found.match.lift.value == pytest.approx(sum(lifts) / len(lifts))
    assert found.match.wins.value == pytest.approx(sum(wins) / len(wins))


def test_right_tags_win_and_shuffled_ones_do_not() -> None:
    chance = random.Random(4)
    tags = [[chance.choice("abcd")] for _ in range(200)]
    scores = np.array([[1.0 if tag in own else 0.01 for tag in TABLE.names] for own in tags])
    found = rows_relevance(scores, TABLE, tags)
    assert found is not None and found.match.wins.value > 0.85 and found.match.lift.value > 0.5
    assert 0.4 < found.shuffled.wins.value < 0.6 and abs(found.shuffled.lift.value) < 0.1
    unknown = rows_relevance(scores, TABLE, [["z"]] * 200)
    assert unknown is not None and unknown.match.wins.value == 0.5, "a tag that no row has says nothing"


def test_a_side_that_writes_no_tags_has_no_relevance() -> None:
    scores = np.ones((100, 4))
    assert rows_relevance(scores, TABLE, [[]] * 100) is None and not writes_tags([[]])
    assert not writes_tags([["a"]] * 9 + [[]] * 91) and writes_tags([["a"]] * 10 + [[]] * 90)
    assert not writes_tags([["a"]] * 2)


def test_prose_in_the_place_of_tags_is_no_tags() -> None:
    own = [["a"], ["b"], ["c"]] * 10
    assert writes_known_tags([["a", "z"]] * 30, own, TABLE)
    assert not writes_known_tags([["and so on", "it went"]] * 30, own, TABLE)
    assert not writes_known_tags([["a"]] * 2 + [["and so on"]] * 28, own, TABLE)
    assert writes_known_tags([["z"]] * 30, [["y"]] * 30, TABLE), "no row's own tags are known: nothing to judge by"
