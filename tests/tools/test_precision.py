"""The bench of the base's precision: its table from sides that are made up, where the answer is known."""

from __future__ import annotations

from typing import Any

import pytest

from bench.quality.precision import difference_of_shares, pooled, table
from florilegium.evaluation.paired import LINES


def side(seed: int, shift: float, copied: int) -> dict[str, Any]:
    nats = [50.0 + (7 * i + seed) % 11 + shift for i in range(40)]
    by_row = {"row": [f"{seed}-{i}" for i in range(40)], "word_nats": nats, "word_tokens": [10] * 40}
    by_row |= {"tag_word_nats": [1.0] * 40, "tag_word_tokens": [1] * 40}
    by_row |= {"tags_right_twice": [2] * 40, "tags_written_and_wanted": [4] * 40}
    return {"by_row": by_row, "copied": [i < copied for i in range(30)]}


def test_the_table_says_what_differs_and_what_does_not() -> None:
    measured = {
        32: [side(0, 0.0, 0), side(1, 0.0, 0)],
        8: [side(0, 0.0, 0), side(1, 0.0, 0)],
        4: [side(0, 1.0, 9), side(1, 1.0, 9)],
    }
    lines = list(table(measured))
    text = "\n".join(lines)
    int8, nf4 = text.split("int8 minus float32, paired")[1].split("NF4 minus float32, paired")
    assert int8.count("no difference seen") == 4
    assert "+0.1000" in nf4 and "by seed +0.1000 +0.1000: float32 is better" in nf4 and "a difference" in nf4
    found = pooled(measured[32], LINES[0])
    assert found is not None and found.value == pytest.approx(
        sum(50 + (7 * i + seed) % 11 for seed in (0, 1) for i in range(40)) / 800
    )


def test_a_difference_of_shares_without_any_copy_has_an_interval() -> None:
    none = difference_of_shares([False] * 50, [False] * 50)
    assert none.value == 0 and none.low < -0.05 and none.high > 0.05
    # Newcombe (1998), table II, case (a): 56/70 and 48/80; 0.20 with 0.0524 to 0.3339
    found = difference_of_shares([i < 48 for i in range(80)], [i < 56 for i in range(70)])
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=2e-4)
