"""Average precision and thresholds: by hand, against plain loops and scikit-learn, and that no row chooses for itself."""

from __future__ import annotations

import numpy as np
import pytest

from florilegium.evaluation import calibrated_tags, tag_f1
from florilegium.evaluation.calibrated_tags import average_precision, best_threshold, cross_fitted, named, passing

NAMES = list("abcdefg")


def some(seed: int, rows: int = 40) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    right = generator.random((rows, len(NAMES))) < 0.3
    right[np.arange(rows), generator.integers(0, len(NAMES), rows)] = True
    return np.round(0.4 * right + 0.6 * generator.random((rows, len(NAMES))), 3), right


def test_average_precision_by_hand() -> None:
    scores, right = np.array([[0.9, 0.5, 0.4, 0.1]]), np.array([[True, False, True, False]])
    found = average_precision(scores, right)
    assert found is not None and found.value == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert average_precision(scores, ~np.ones((1, 4), dtype=bool)) is None, "no known tag to find"


@pytest.mark.parametrize("seed", range(3))
def test_average_precision_equals_scikit_learns(seed: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    scores, right = some(seed)
    scores += np.arange(scores.size).reshape(scores.shape) * 1e-9  # no ties: those it takes together
    found = average_precision(scores, right)
    assert found is not None
    assert found.value == pytest.approx(metrics.average_precision_score(right, scores, average="samples"))


@pytest.mark.parametrize("seed", range(3))
def test_the_threshold_is_the_best_of_all(seed: int) -> None:
    scores, right = some(seed)
    wanted = [[NAMES[t] for t in np.flatnonzero(row)] for row in right]
    plain = {at: tag_f1(named(NAMES, scores, passing(scores, at)), wanted) for at in sorted(set(scores.ravel()))}
    assert plain[best_threshold(scores, right)] == pytest.approx(max(plain.values()))
    assert passing(scores, 2.0).sum(1).tolist() == [1] * len(scores), "the best is always named"


def by_a_loop(scores: np.ndarray, right: np.ndarray) -> float:
    """The lowest score of those at which micro F1 is highest, each tried in turn."""

    def f1(at: float) -> float:
        chosen = passing(scores, at)
        return float(2 * (chosen & right).sum() / max(1, chosen.sum() + right.sum()))

    return float(max(np.unique(scores), key=f1))


@pytest.mark.parametrize("seed", range(40))
def test_one_pass_finds_the_threshold_that_trying_each_finds(seed: int) -> None:
    generator = np.random.default_rng(seed)
    rows, tags = generator.integers(1, 7, 2)
    # Many ties, the best of a row among them.
    scores = generator.integers(0, 1 + generator.integers(1, 12), (rows, tags)) / 7
    right = generator.random((rows, tags)) < generator.random()
    assert best_threshold(scores, right) == by_a_loop(scores, right)
    assert best_threshold(scores, np.zeros_like(right)) == by_a_loop(scores, np.zeros_like(right))


def test_a_matrix_as_large_as_they_come_is_passed_over_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """75 validation rows and 2,000 tags are 150,000 scores to try."""
    generator = np.random.default_rng(0)
    scores = generator.random((75, 2000))
    right = generator.random(scores.shape) < 0.4 * scores
    passes = []
    monkeypatch.setattr(calibrated_tags, "passing", lambda *given: passes.append(given))
    at = best_threshold(scores, right)
    assert not passes and 0 < at < 1


def test_no_row_has_a_say_in_its_own_threshold() -> None:
    scores, right = some(7)
    first = cross_fitted(scores, right)
    for r in range(0, len(scores), 7):
        other = right.copy()
        other[r] = ~other[r]
        assert (cross_fitted(scores, other)[r] == first[r]).all()
    assert (cross_fitted(scores[:1], right[:1]).sum(1) >= 1).all()


def test_named_tags_come_likeliest_first() -> None:
    scores = np.array([[0.1, 0.5, 0.3]])
    assert named(["a", "b", "c"], scores, passing(scores, 0.2)) == [["b", "c"]]
