"""A step's rows dealt to processes: each row once, as even as the longest row allows, and as the plain way deals them."""

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
    assert shares == plainly(lengths, world)
