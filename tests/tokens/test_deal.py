"""A step's rows dealt to processes: each row once, never less evenly than the longest row first, and of quotes nearly to the token."""

from __future__ import annotations

import random

import pytest

from florilegium.tokens.deal import deal


def plainly(lengths: list[int], world: int) -> list[list[int]]:
    """The longest row first, to whoever has the fewest tokens, of several the lowest rank."""
    shares: list[list[int]] = [[] for _ in range(world)]
    for number in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        held = [sum(lengths[i] for i in share) for share in shares]
        shares[held.index(min(held))].append(number)
    return [sorted(share) for share in shares]


@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize("seed", range(8))
def test_rows_are_dealt_by_tokens(world: int, seed: int) -> None:
    chance = random.Random(seed)
    lengths = [chance.choice((chance.randint(1, 9), chance.randint(100, 900))) for _ in range(chance.randint(0, 60))]
    shares = deal(lengths, world)
    assert sorted(i for share in shares for i in share) == list(range(len(lengths)))
    held = [sum(lengths[i] for i in share) for share in shares]
    assert max(held) - min(held) <= max(lengths, default=0)
    plain = [sum(lengths[i] for i in share) for share in plainly(lengths, world)]
    assert max(held) <= max(plain, default=0) and min(held) >= min(plain, default=0)


@pytest.mark.parametrize("world", [2, 4, 8])
def test_shares_of_quotes_are_even_to_two_tokens(world: int) -> None:
    """So that a step of whole tiles for all is one of whole tiles for each."""
    chance = random.Random(world)
    for _ in range(20):
        lengths = [max(2, min(400, int(chance.lognormvariate(3.74, 0.76)))) for _ in range(16 * world)]
        held = [sum(lengths[i] for i in share) for share in deal(lengths, world)]
        assert max(held) - min(held) <= 2, held


def test_rows_of_one_length_are_left_where_they_are() -> None:
    assert deal([50] * 7, 2) == plainly([50] * 7, 2)
    assert deal([9, 9, 1], 2) == [[0, 2], [1]]
