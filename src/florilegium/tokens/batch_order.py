"""Which rows make an optimiser step: a shuffle cut every `batch_rows`, or that shuffle arranged so that its steps fill
a GPU's tiles.

Sixteen rows of english_quotes are 500 to 2,300 tokens, and a matrix unit works in whole tiles: the products of bloom-7b1 take an H100
25.8 ms for 768 tokens, 32.8 ms for 832 and 34.1 ms for 1,024. So in a `tile_aligned` order rows change places between steps near one
another in the shuffle until a step holds a multiple of TILE tokens, or a few less. A step of 32 rows or more, which several
GPUs may share, holds a multiple of a tile for each of them, and `deal.py` gives each whole tiles. Every row still comes once
an epoch, in a step of as many rows; long rows no longer meet in one step, so its peak of memory is lower too. The order
depends on the lengths, the rows of a step, the seed and the number of the epoch alone.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

TILE = 256
MOST_ROWS = 128  # of a step that is arranged: larger ones hold many tiles, of which part of one is little
# of a step that one long row can overfill: it may pass tokens on to any other (in larger ones that is slow, and rare)
FEW_ROWS = 32
ROWS_OF_ONE = 16  # of a step, where several processes share it: the rows that one of them has at least
WINDOW = 64  # steps among which rows change places: a shuffle of a million rows is arranged as it is reached


def epoch_order(num_rows: int, batch_rows: int, seed: int, epoch: int) -> list[list[int]]:
    """The optimiser steps of one epoch as lists of row numbers: a shuffle that depends on `seed` and `epoch` alone, cut
    every `batch_rows` (the last step may be shorter)."""
    order = list(range(num_rows))
    random.Random(f"florilegium {seed} {epoch}").shuffle(order)
    return [order[i : i + batch_rows] for i in range(0, num_rows, batch_rows)]


class BatchSampler:
    """The rows of every step of a run. `lengths` are tokens a row takes in a batch; `tile_aligned` says which of the two
    orders it is; `tile` the tokens of which a step is then to hold a multiple (0: `tiles_of` the rows)."""

    def __init__(
        self, lengths: Sequence[int], batch_rows: int, seed: int, *, tile_aligned: bool, tile: int = 0
    ) -> None:
        self.lengths = np.asarray(lengths, dtype=np.int64)
        self.batch_rows, self.seed, self.tile_aligned = batch_rows, seed, tile_aligned and batch_rows <= MOST_ROWS
        self.tile = tile or (tiles_of(self.lengths, batch_rows) if self.tile_aligned else TILE)
        self.steps_per_epoch = -(-len(lengths) // batch_rows)
        self._epoch = lru_cache(2)(lambda epoch: epoch_order(len(self.lengths), batch_rows, seed, epoch))
        self._window = lru_cache(2)(self._arranged)

    def step(self, number: int) -> list[int]:
        """The rows of step `number`, from 0 on through all epochs."""
        epoch, place = divmod(number, self.steps_per_epoch)
        if not self.tile_aligned:
            return self._epoch(epoch)[place]
        return self._window(epoch, place // WINDOW)[place % WINDOW]

    def tokens(self, number: int) -> int:
        return int(self.lengths[self.step(number)].sum())

    def _arranged(self, epoch: int, window: int) -> list[list[int]]:
        steps = self._epoch(epoch)[window * WINDOW : (window + 1) * WINDOW]
        whole = [step for step in steps if len(step) == self.batch_rows]
        return [*tile_align(whole, self.lengths, self.tile), *steps[len(whole) :]] if len(whole) > 1 else steps


def tiles_of(lengths: np.ndarray, batch_rows: int) -> int:
    """Tokens of which a step holds a multiple: a tile, or of large steps a tile for each of the processes that may share
    one. The number that do must not matter, so it is taken from the rows alone: a process for each 16."""
    tiles = 1
    while 2 * tiles * ROWS_OF_ONE <= batch_rows and 4 * tiles * TILE <= batch_rows * lengths.sum() / max(
        1, len(lengths)
    ):
        tiles *= 2
    return tiles * TILE


def tile_align(steps: list[list[int]], lengths: np.ndarray, tile: int = TILE) -> list[list[int]]:
    """The same rows in steps of as many, their tokens as near below multiples of `tile` as exchanging pairs of rows
    brings them."""
    rows = np.array(steps)
    sums = lengths[rows].sum(1)
    low = max(tile, int(sums.sum()) // len(rows) // tile * tile)
    larger = max(0, -(-(int(sums.sum()) - low * len(rows)) // tile))
    capacity = np.full(len(rows), low)
    capacity[np.argsort(-sums, kind="stable")[:larger]] += tile  # those that are long already: fewer rows need to move
    over = sums - capacity
    stuck = np.zeros(len(rows), dtype=bool)
    while (over[~stuck] > 0).any():
        a = int(np.where(stuck, -1, over).argmax())
        b, i, j, moved = _best_swap(a, rows, lengths, over)
        if not moved:
            stuck[a] = True
            continue
        rows[a, i], rows[b, j] = rows[b, j], rows[a, i]
        over[a], over[b] = over[a] - moved, over[b] + moved
    return [[int(i) for i in row] for row in rows]


def _best_swap(a: int, rows: np.ndarray, lengths: np.ndarray, over: np.ndarray) -> tuple[int, int, int, int]:
    """The exchange that takes most off step `a` without overfilling another: that step, the two places, and tokens
    moved (0: none). Where there is none, and steps are of so few rows that one long row makes one, an exchange after
    which the other is less over than `a` was."""
    tries = [(np.argsort(over, kind="stable")[:8], np.minimum(over[a], -over))]
    if rows.shape[1] <= FEW_ROWS:
        tries.append((np.arange(len(rows)), np.minimum(over[a], over[a] - over - 1)))
    for others, most in tries:
        # [others, rows of a, rows of the other]
        change = lengths[rows[a]][None, :, None] - lengths[rows[others]][:, None, :]
        change[change > most[others][:, None, None]] = 0
        number, i, j = np.unravel_index(int(change.argmax()), change.shape)
        if change[number, i, j] > 0:
            return int(others[number]), int(i), int(j), int(change[number, i, j])
    return a, 0, 0, 0
