"""How an int8 matmul on a Hopper GPU is cut in tiles (`int8_matmul.py`): how many tokens a tile has, how many programs
make them, and which tiles the programs share. The count that chooses is of work, not of time; no kernel is run for it.

`tile_schedule.cuh` is the other half: which tile, or part of one, a program makes when. Shapes: T tokens; tiles_o tiles
of outputs; units, the 128 rows each of a tile's sum."""

# ruff: noqa: N803

from __future__ import annotations

import functools
from typing import NamedTuple

TOKENS = (64, 96, 128, 160, 192, 224, 256)  # that a tile may hold: what wgmma takes, in steps of 32 that compile well
L2_BYTES = 50_000_000  # the L2 cache of an H100
GROUP = 8  # tiles of tokens that are at work together (`tile_schedule.cuh`)
OVERHEAD_TOKENS = 30  # a unit of a tile's sum takes what so many tokens more would: filling the pipeline, the epilogue
SHARING_UNITS = 6  # and to share tiles takes so many units: parts are written, awaited and added
LEAST_UNITS = 8  # of a shared tile that a program makes


class Tiling(NamedTuple):
    """Tiles for `tokens` tokens, `programs` that make them, each of a multiprocessor or a cluster, and how many all
    programs share."""

    tokens: int
    programs: int
    shared: int


@functools.cache
def tiling(T: int, tiles_o: int, units: int, most: int, *, sharing: bool) -> Tiling:
    """The fastest for `tiles_o` tiles of outputs and `most` programs at a time, by a count that chooses within 1% of
    the fastest measured (three widths, 256 to 8,192 tokens). So 640 tokens are four times 160."""

    def cost(choice: Tiling) -> float:
        tiles = -(-T // choice.tokens) * tiles_o
        # shared evenly there is no last round in which some wait
        rounds = tiles / choice.programs if choice.shared else -(-tiles // choice.programs)
        return (rounds * units + SHARING_UNITS * bool(choice.shared)) * (OVERHEAD_TOKENS + choice.tokens)

    choices = [shares(T, tokens, tiles_o, units, most) for tokens in TOKENS] if sharing else []
    choices += [Tiling(tokens, min(-(-T // tokens) * tiles_o, most), 0) for tokens in TOKENS]
    return min(choices, key=cost)


def shares(T: int, tokens: int, tiles_o: int, units: int, most: int) -> Tiling:
    """How many tiles are shared evenly, each being cut along its sum: where the last round of tiles would leave many
    programs idle, that round and the one before it. Programs that share are at different places of the sum, so they do
    where what they read of x lies in the L2 cache."""
    tiles = -(-T // tokens) * tiles_o
    rounds, rest = divmod(tiles, most)
    # a last round that is nine tenths full leaves nothing to win; 256 bytes are a token's 128 bfloat16 of one unit
    if rest == 0 or rest > 0.9 * most or min(T, GROUP * tokens) * units * 256 > L2_BYTES:
        return Tiling(tokens, min(tiles, most), 0)
    # With the round before it each program's share is more than a tile, so no tile has more than two programs' parts.
    shared = rest + (most if rounds else 0)
    if rounds:
        return Tiling(tokens, most, shared)
    # Fewer tiles than programs: none makes less than 1,024 rows, or adding parts up would cost more than it wins.
    programs = min(most, shared * units // LEAST_UNITS)
    return Tiling(tokens, programs, shared) if programs > tiles else Tiling(tokens, tiles, 0)
