"""Figures with known answers: by hand, by scikit-learn's definitions, or by counting."""

from __future__ import annotations

import random

import numpy as np
import pytest

from florilegium.evaluation import (
    TrainingTexts,
    copy_metrics,
    distinct_n,
    instrument_check,
    is_repetitive,
    most_frequent_tags,
    tag_f1,
    tag_scores,
)
from florilegium.evaluation.confidence import difference, mean, ratio, share
from florilegium.evaluation.metrics import Metric
from florilegium.evaluation.table import written

PREDICTED = [["a", "b"], ["a", "a", "c"], [], ["x", "y", "z", "d"]]
WANTED = [["a", "b"], ["a", "d"], ["b"], ["d"]]


def test_tag_metrics_by_hand() -> None:
    found = tag_scores(PREDICTED, WANTED)
    assert found is not None
    # right 2 + 1 + 0 + 1 = 4; predicted 2 + 2 + 0 + 4 = 8; wanted 2 + 2 + 1 + 1 = 6
    assert found.micro_f1.value == pytest.approx(8 / 14) == pytest.approx(tag_f1(PREDICTED, WANTED))
    # a: 2 * 2 / 4 = 1; b: 2 * 1 / 3; d: 2 * 1 / 3; c, x, y, z were predicted and are wanted by no row: 0 each
    assert found.macro_f1.value == pytest.approx((1 + 2 / 3 + 2 / 3) / 7)
    assert found.precision_at_1.value == pytest.approx((1 + 1 + 0 + 0) / 4)
    assert found.precision_at_3.value == pytest.approx((2 / 3 + 1 / 3 + 0 + 0) / 4), "'d' stands fourth"
    assert found.rows == 4 and tag_scores([["a"]], [[]]) is None
    assert tag_scores([*PREDICTED, ["q"]], [*WANTED, []]) == found, "a row that wants nothing says nothing"
    perfect = tag_scores(WANTED, WANTED)
    assert perfect is not None and perfect.micro_f1 == perfect.macro_f1 == Metric(1.0, 1.0, 1.0)


def test_ceilings_repeats_and_unseen_tags_by_hand() -> None:
    found = tag_scores(PREDICTED, WANTED, known={"a", "b", "x"})
    assert found is not None
    assert found.precision_at_3_ceiling == pytest.approx((2 / 3 + 2 / 3 + 1 / 3 + 1 / 3) / 4)
    own = tag_scores(WANTED, WANTED)
    assert own is not None and own.precision_at_3.value == found.precision_at_3_ceiling, "the rows' own tags reach it"
    assert found.repeated is not None and found.repeated.value == 1 / 4, "a, a, c"
    # a b | a c | | x y z d: of eight tags c, y, z, d are new; of the six wanted ones both d
    assert found.unseen.value == pytest.approx(4 / 8) and found.wanted_unseen.value == pytest.approx(2 / 6)
    without = tag_scores([[], []], [["a"], ["b"]], known={"a"})
    assert without is not None and without.unseen is None and without.wanted_unseen.value == 1 / 2


def some_tags(seed: int, rows: int = 80) -> tuple[list[list[str]], list[list[str]]]:
    chance = random.Random(seed)
    names = [f"t{i}" for i in range(25)]
    wanted = [chance.sample(names, chance.randrange(1, 4)) for _ in range(rows)]
    predicted = [[tag if chance.random() < 0.6 else chance.choice(names) for tag in own] for own in wanted]
    return predicted, wanted


def plain_macro_f1(predicted: list[list[str]], wanted: list[list[str]]) -> float:
    each = []
    for tag in {tag for own in [*predicted, *wanted] for tag in own}:
        right = sum(tag in mine and tag in theirs for mine, theirs in zip(predicted, wanted, strict=True))
        each.append(2 * right / (sum(tag in own for own in predicted) + sum(tag in own for own in wanted)))
    return sum(each) / len(each)


@pytest.mark.parametrize("seed", range(4))
def test_tag_figures_equal_plain_loops_and_scikit_learn(seed: int) -> None:
    predicted, wanted = some_tags(seed)
    found = tag_scores(predicted, wanted)
    assert found is not None and found.macro_f1.value == pytest.approx(plain_macro_f1(predicted, wanted))
    metrics = pytest.importorskip("sklearn.metrics")
    names = sorted({tag for own in [*predicted, *wanted] for tag in own})
    mine, theirs = ([[tag in own for tag in names] for own in rows] for rows in (predicted, wanted))
    for average, figure in (("micro", found.micro_f1), ("macro", found.macro_f1)):
        assert figure.value == pytest.approx(metrics.f1_score(theirs, mine, average=average))


def test_the_interval_of_macro_f1_is_not_moved_by_tags_that_a_resample_lacks() -> None:
    """Of 25 tags in 20 rows a resample lacks several; its macro F1 is lower than the value on average."""
    offsets = []
    for seed in range(20):
        found = tag_scores(*some_tags(seed, 20))
        assert found is not None and 0 <= found.macro_f1.low <= found.macro_f1.value <= found.macro_f1.high <= 1
        offsets.append((found.macro_f1.low + found.macro_f1.high) / 2 - found.macro_f1.value)
    assert abs(float(np.mean(offsets))) < 0.012, offsets


def test_most_frequent_tags() -> None:
    assert most_frequent_tags([["a", "b"], ["a", "c"], ["b", "a"]]) == ["a", "b"]


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    generator = np.random.default_rng(1)
    held = 0
    for _ in range(300):
        sizes = generator.integers(5, 40, 120)
        # The tokens of a row hang together: each row has a level of its own, true mean 3.
        nats = [float(generator.normal(3 + generator.normal(0, 1), 0.5, n).sum()) for n in sizes]
        found = ratio(nats, sizes)
        assert found is not None
        held += found.low <= 3 <= found.high
    assert 0.90 <= held / 300 <= 0.985


def test_ratios_and_differences() -> None:
    assert ratio([2.0, 4.0], [1, 2]) == Metric(2.0, 2.0, 2.0)
    assert ratio([], []) is None and ratio([1.0], [0]) is None
    found = difference([2.0, 5.0, 9.0], [1.0, 4.0, 8.0], [1, 1, 1])
    assert found == Metric(1.0, 1.0, 1.0), "paired: what each row lost is the same"
    half = mean([1.0] * 5 + [0.0] * 5)
    assert half is not None and half.low < 0.5 < half.high


def test_shares_have_wilsons_interval() -> None:
    assert share([False] * 200) == Metric(0.0, 0.0, pytest.approx(0.01885, abs=1e-4))
    assert share([True] * 15 + [False] * 5) == Metric(
        0.75, pytest.approx(0.5313, abs=1e-3), pytest.approx(0.8881, abs=1e-3)
    )
    assert share([]) is None


def test_distinct_n() -> None:
    assert distinct_n(["a b a b", "c"], 1, 100) == pytest.approx(3 / 5)
    assert distinct_n(["a b a b", "c"], 2, 100) == pytest.approx(2 / 3), "no run crosses from text to text"
    assert distinct_n(["a b a b", "c"], 1, 2) == 1.0, "the first two words alone"
    assert distinct_n([], 1, 100) is None


@pytest.mark.parametrize(
    "text",
    ["is is is is", "so it goes so it goes so it goes", "no, no; no. No!", "x " + "one two three four five " * 3],
)
def test_repetitive_text_is_found(text: str) -> None:
    assert is_repetitive(text)


@pytest.mark.parametrize(
    "text", ["very very very good", "so it goes so it goes", "To be, or not to be: that is the question.", ""]
)
def test_other_text_is_not_repetitive(text: str) -> None:
    assert not is_repetitive(text)


ROWS = [
    "Be yourself; everyone else is already taken.",
    "The sea keeps no letters, and the shore forgets the names that we write on it.",
    "Hope.",
    "A lamp does not argue with the dark.",
]


def test_overlaps_by_hand() -> None:
    index = TrainingTexts(ROWS)
    found = index.overlap("BE YOURSELF, everyone else is already here!")
    assert (found.longest, found.row, found.copied) == (6, 0, False) and found.containment == pytest.approx(4 / 5)
    found = index.overlap("They say: “the shore forgets the names that we write” and so on")
    assert (found.longest, found.row, found.copied) == (8, 1, True)
    assert index.overlap("hope").copied and not index.overlap("the dark").copied and not index.overlap("Hope is").copied
    nothing = index.overlap("")
    assert (nothing.longest, nothing.row, nothing.containment, nothing.copied) == (0, None, 0.0, False)
    assert index.overlap("zebra quagga").longest == 0


def test_longest_runs_equal_a_plain_search() -> None:
    chance = random.Random(0)
    letters = "abcdef"
    rows = [" ".join(chance.choices(letters, k=chance.randrange(1, 15))) for _ in range(40)]
    index = TrainingTexts(rows)
    padded = [f" {row} " for row in rows]
    for _ in range(200):
        own = chance.choices(letters, k=chance.randrange(1, 15))
        runs = [own[i:j] for i in range(len(own)) for j in range(i + 1, len(own) + 1)]
        plain = max(len(run) for run in runs if any(f" {' '.join(run)} " in row for row in padded))
        assert index.overlap(" ".join(own)).longest == plain


def test_planted_copies_are_found_and_shuffled_words_are_not() -> None:
    chance = random.Random(0)
    vocabulary = [f"w{i}" for i in range(400)]
    rows = [" ".join(chance.choices(vocabulary, k=chance.randrange(1, 40))) for _ in range(500)]
    check = instrument_check(TrainingTexts(rows), rows)
    assert check.planted == 200 and check.planted_found == 1.0
    assert check.shuffled > 100 and check.shuffled_found == 0.0
    planted = [f"He said: {row}, and left." for row in rows if len(row.split()) >= 8]
    found = copy_metrics(TrainingTexts(rows), planted)
    assert found is not None and found.copied.value == 1.0 and found.containment.value > 0.5
    assert found.closest[0].longest_run == found.longest_run_max == 39
    assert copy_metrics(TrainingTexts(rows), []) is None


def test_a_figure_of_one_row_shows_no_interval() -> None:
    one, many = {"value": 3.25, "low": 3.25, "high": 3.25}, {"value": 3.25, "low": 3.0, "high": 3.5}
    assert [written(one, ".3f", short) for short in (True, False)] == ["3.250", "3.250"]
    assert [written(many, ".3f", short) for short in (True, False)] == ["3.250 ±0.250", "3.250 (3.000 to 3.500)"]
    assert written(None, ".3f") == ""
