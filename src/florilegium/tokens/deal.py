"""The rows of a step dealt to several processes, so that each has about as many tokens.

The longest row goes first, each to whoever has the fewest tokens yet; then rows change places between the fullest share and
the emptiest. A step of the tile-aligned order holds whole tiles for every process (`batch_order.py`), and a share of one
token too many pays for another tile. The deal depends on the lengths alone: every process makes it for itself, and knows
what the others hold without asking."""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Sequence

ROUNDS = 64  # exchanges at most: two shares are even after a few, a thousand are left as they are


def deal(lengths: Sequence[int], world: int) -> list[list[int]]:
    """The numbers of the rows that each of `world` processes takes, in their order; none, where there are fewer rows
    than processes."""
    shares: list[list[int]] = [[] for _ in range(world)]
    fewest = [(0, rank) for rank in range(world)]  # a heap, by tokens: a thousand processes cost little more
    for number in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        tokens, rank = fewest[0]
        shares[rank].append(number)
        heapq.heapreplace(fewest, (tokens + lengths[number], rank))
    _even_out(shares, lengths)
    return [sorted(share) for share in shares]


def _even_out(shares: list[list[int]], lengths: Sequence[int]) -> None:
    """Exchanges rows of the fullest share and the emptiest until no exchange brings them nearer."""
    held = [sum(lengths[i] for i in share) for share in shares]
    for _ in range(ROUNDS):
        full, empty = held.index(max(held)), held.index(min(held))
        found = _exchange(shares[full], shares[empty], lengths, held[full] - held[empty])
        if found is None:
            return
        out, back = found
        shares[full][shares[full].index(out)] = back
        shares[empty][shares[empty].index(back)] = out
        moved = lengths[out] - lengths[back]
        held[full], held[empty] = held[full] - moved, held[empty] + moved


def _exchange(full: Sequence[int], empty: Sequence[int], lengths: Sequence[int], gap: int) -> tuple[int, int] | None:
    """A row of each of two shares, `gap` tokens apart, whose exchange brings them nearest to one another."""
    sizes = sorted((lengths[i], i) for i in empty)
    best, found = gap / 2, None
    for out in full:
        place = bisect_left(sizes, (lengths[out] - gap // 2, -1))
        for size, back in sizes[max(0, place - 1) : place + 1]:
            apart = abs(gap / 2 - (lengths[out] - size))
            if apart < best:
                best, found = apart, (out, back)
    return found
