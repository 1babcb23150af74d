"""The two-word runs of many texts in arrays: which run is in which row, how many rows hold it, and which rows might be
near because they share rare ones.

A million texts have some twenty million runs. As sets of strings they take 6 GiB; here a run is a number, a text a slice
of one long array, and everything that is done to all of them is a sort. A run's number is its rank by rarity, so a
row's runs stand with the rarest first.

    row_runs[row_starts[i] : row_starts[i + 1]]         the runs of row i, rarest first
    run_rows[run_starts[r] : run_starts[r + 1]]         the rows that hold run r, ascending

Legend: N rows, T words, U runs (in all rows, each once a row), R distinct runs."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import count

import numpy as np

from florilegium.data.words import fold

Ints = np.ndarray
_PAIRS_AT_ONCE = 1 << 22


class RunIndex:
    """The texts as words and as runs; `is_number` tells which words are digits alone."""

    def __init__(self, texts: Sequence[str], progress: Callable[[str, int], None] | None = None) -> None:
        self.words_T, self.word_starts, vocabulary = _numbered(texts, progress)
        self.is_number = np.fromiter((word.isdigit() for word in vocabulary), bool, len(vocabulary))
        keys_U, rows_U = _runs(self.words_T, self.word_starts, len(vocabulary))
        self._sort(keys_U, rows_U, len(texts))

    def _sort(self, keys_U: Ints, rows_U: Ints, num_rows: int) -> None:
        row_bits = max(1, int(num_rows).bit_length())
        codes = np.unique(_fitted(keys_U, 64 - row_bits) << np.uint64(row_bits) | rows_U.astype(np.uint64))
        rows = (codes & np.uint64((1 << row_bits) - 1)).astype(np.int64)
        keys = codes >> np.uint64(row_bits)
        is_first = np.ones(len(keys), bool)
        is_first[1:] = keys[1:] != keys[:-1]
        starts = np.append(np.flatnonzero(is_first), len(keys))
        holders = np.diff(starts)
        by_rarity = np.argsort(holders, kind="stable")
        rank = np.empty(len(holders), np.int64)
        rank[by_rarity] = np.arange(len(holders))
        self.holders_R = holders[by_rarity]
        runs_U = rank[np.cumsum(is_first) - 1]
        self.run_starts = np.concatenate(([0], np.cumsum(self.holders_R)))
        order = np.sort(runs_U << 32 | rows)
        self.run_rows = (order & 0xFFFFFFFF).astype(np.int32)
        self.row_codes = np.sort(rows << 32 | runs_U)  # what is searched to ask whether row i holds run r
        self.row_runs = (self.row_codes & 0xFFFFFFFF).astype(np.int32)
        self.sizes_N = np.bincount(rows, minlength=num_rows)
        self.row_starts = np.concatenate(([0], np.cumsum(self.sizes_N)))

    def candidates(self, most_holders: int, at_least: int) -> Iterator[tuple[Ints, Ints]]:
        """Rows (i, j) of which the rarest half of i's runs, and one more, shares some with j, which is no shorter.
        Runs with more than `most_holders` rows are not followed; `at_least` shared ones are asked of rows with four or
        more that are."""
        position = np.arange(len(self.row_runs)) - np.repeat(self.row_starts[:-1], self.sizes_N)
        rows = np.repeat(np.arange(len(self.sizes_N)), self.sizes_N)
        held = self.holders_R[self.row_runs]
        followed = np.flatnonzero((position <= self.sizes_N[rows] // 2) & (held > 1) & (held <= most_holders))
        rows, runs, held = rows[followed], self.row_runs[followed], held[followed]
        needed = np.where(np.bincount(rows, minlength=len(self.sizes_N)) >= 4, at_least, 1)
        ends = np.cumsum(held)
        start = 0
        while start < len(rows):
            # a chunk ends with a row, so that all that it shares with another is counted together
            end = int(np.searchsorted(ends, (ends[start - 1] if start else 0) + _PAIRS_AT_ONCE, "right"))
            end = int(np.searchsorted(rows, rows[min(max(end, start), len(rows) - 1)], "right"))
            yield self._pairs(rows[start:end], runs[start:end], held[start:end], needed)
            start = end

    def _pairs(self, rows: Ints, runs: Ints, held: Ints, needed: Ints) -> tuple[Ints, Ints]:
        inside = np.arange(held.sum()) - np.repeat(np.cumsum(held) - held, held)
        i = np.repeat(rows, held)
        j = self.run_rows[np.repeat(self.run_starts[runs], held) + inside].astype(np.int64)
        kept = (self.sizes_N[j] > self.sizes_N[i]) | ((self.sizes_N[j] == self.sizes_N[i]) & (j != i))
        codes, times = np.unique(i[kept] << 32 | j[kept], return_counts=True)
        i, j = codes >> 32, codes & 0xFFFFFFFF
        enough = times >= needed[i]
        return i[enough], j[enough]

    def shared(self, i: Ints, j: Ints, weights_R: Ints) -> tuple[Ints, Ints]:
        """How many runs rows i and j share, and what these weigh together."""
        sizes = self.sizes_N[i]
        inside = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        runs = self.row_runs[np.repeat(self.row_starts[i], sizes) + inside].astype(np.int64)
        wanted = np.repeat(j, sizes) << 32 | runs
        found = np.searchsorted(self.row_codes, wanted)
        is_shared = self.row_codes[np.minimum(found, len(self.row_codes) - 1)] == wanted
        pair = np.repeat(np.arange(len(i)), sizes)
        weights = np.bincount(pair, is_shared * weights_R[runs], minlength=len(i))
        return np.bincount(pair, is_shared, minlength=len(i)), weights

    def weight_of_rows(self, weights_R: Ints) -> Ints:
        """What all runs of each row weigh."""
        rows = np.repeat(np.arange(len(self.sizes_N)), self.sizes_N)
        return np.bincount(rows, weights_R[self.row_runs], minlength=len(self.sizes_N))

    def words_of(self, row: int) -> list[int]:
        words: list[int] = self.words_T[self.word_starts[row] : self.word_starts[row + 1]].tolist()
        return words


def _numbered(texts: Sequence[str], progress: Callable[[str, int], None] | None) -> tuple[Ints, Ints, list[str]]:
    """All words as numbers, where each text begins among them, and the words."""
    numbers: defaultdict[str, int] = defaultdict(count().__next__)
    flat, sizes = array("i"), array("q", [0])
    for number, text in enumerate(texts):
        flat.extend(map(numbers.__getitem__, fold(text)))
        sizes.append(len(flat))
        if progress and not number % 50_000:
            progress("rows compared", number)
    return (
        np.frombuffer(flat, np.int32) if flat else np.zeros(0, np.int32),
        np.frombuffer(sizes, np.int64),
        list(numbers),
    )


def _runs(words_T: Ints, word_starts: Ints, vocabulary: int) -> tuple[Ints, Ints]:
    """Each two words that stand together in a row, as one number, and the row; of a row with one word, that word."""
    sizes = np.diff(word_starts)
    rows_T = np.repeat(np.arange(len(sizes), dtype=np.int64), sizes)
    is_last = np.zeros(len(words_T), bool)
    is_last[word_starts[1:][sizes > 0] - 1] = True
    follows = np.append(words_T[1:], 0).astype(np.uint64)
    keys = words_T.astype(np.uint64) * np.uint64(vocabulary + 1) + np.where(is_last, np.uint64(vocabulary), follows)
    kept = ~is_last | (sizes[rows_T] == 1)
    return keys[kept], rows_T[kept]


def _fitted(keys: Ints, bits: int) -> Ints:
    """Keys in so many bits: as they are, or, where there are too many words, their hash."""
    if not len(keys) or int(keys.max()).bit_length() <= bits:
        return keys
    return keys * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(64 - bits)
