"""The rows of a step dealt to several processes, so that each has about as many tokens.

The longest row goes first, each to whoever has the fewest tokens yet. The deal depends on the lengths alone: every
process makes it for itself, and knows what the others hold without asking."""

from __future__ import annotations

import heapq
from collections.abc import Sequence


def deal(lengths: Sequence[int], world: int) -> list[list[int]]:
    """The numbers of the rows that each of `world` processes takes, in their order; none, where there are fewer rows
    than processes."""
    shares: list[list[int]] = [[] for _ in range(world)]
    fewest = [(0, rank) for rank in range(world)]  # a heap, by tokens: a thousand processes cost little more
    for number in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        tokens, rank = fewest[0]
        shares[rank].append(number)
        heapq.heapreplace(fewest, (tokens + lengths[number], rank))
    return [sorted(share) for share in shares]
