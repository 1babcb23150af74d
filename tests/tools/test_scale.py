"""The simulation of many cards: one card is whole, a slower link costs what its bytes cost, and the deal stays even."""

from __future__ import annotations

import numpy as np
import pytest

from bench.scale.gpus import LINKS, MANY, MANY_RATE, PARAMETERS, Link, simulate, step_cost, stops_a_day, summing_seconds

LENGTHS = np.random.default_rng(1).integers(8, 120, 2_000).tolist()


def test_the_line_goes_through_what_was_measured() -> None:
    fixed, per_token = step_cost(53.0)
    assert fixed + MANY * per_token == pytest.approx(MANY / MANY_RATE)


def test_a_ring_sends_each_byte_almost_twice() -> None:
    link = Link("", 10, 0.0)
    assert summing_seconds(1, link) == 0
    assert summing_seconds(2, link) == pytest.approx(PARAMETERS * 4 / 10e9)
    assert summing_seconds(1000, link) == pytest.approx(2 * PARAMETERS * 4 / 10e9, rel=2e-3)


def test_eight_cards_of_8192_positions_lose_less_than_three_percent() -> None:
    one, *eight = simulate(LENGTHS, round(MANY / float(np.mean(LENGTHS))), [1, 8], LINKS[:1]) + simulate(
        LENGTHS, round(MANY / float(np.mean(LENGTHS))), [8], LINKS[1:3]
    )
    assert one.efficiency == pytest.approx(1, abs=1e-3)
    assert all(0.97 <= outcome.efficiency < 1 and outcome.dealt < 1.01 for outcome in eight)
    few = simulate(LENGTHS, 16, [8], LINKS)
    rates = [outcome.efficiency for outcome in few]
    assert rates == sorted(rates, reverse=True) and rates[-1] < 0.6


def test_a_thousand_cards_stop_every_other_day() -> None:
    stops, lost = stops_a_day(1024)
    assert stops == pytest.approx(0.49, abs=0.01) and 0.001 < lost < 0.002
