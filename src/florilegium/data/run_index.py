"""The two-word runs of many texts in arrays: which run is in which row, how many rows hold it, and which rows might be
near because they share rare ones.

A million texts have some twenty million runs. As sets of strings they take 6 GiB; here a run is a number, a text a slice
of one long array, and everything that is done to all of them is a sort. A run's number is its rank by rarity, so a
row's runs stand with the rarest first.

    row_runs[row_starts[i] : row_starts[i + 1]]                 the runs of row i, rarest first
    run_rows[run_starts[r] : run_starts[r] + holders_R[r]]      the rows that hold run r, ascending

Legend: N rows, T words, R distinct runs."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import count

import numpy as np

from florilegium.data.words import BEGINS, fold_all

Ints = np.ndarray
_PAIRS_AT_ONCE, _ROWS_AT_ONCE = 1 << 21, 1 << 17
_ROWS_FOLDED = 2_000  # their words fit a processor's cache


class RunIndex:
    """The texts as words and as runs; `is_number` tells which words are digits alone."""

    def __init__(self, texts: Sequence[str], progress: Callable[[str, int], None] | None = None) -> None:
        self.words_T, self.word_starts, vocabulary = _numbered(texts, progress)
        self.is_number = np.fromiter((word.isdigit() for word in vocabulary), bool, len(vocabulary))
        self._sort(_coded(self.words_T, self.word_starts, len(vocabulary)), len(texts))

    def _sort(self, codes: Ints, num_rows: int) -> None:
        """Each array is let go as soon as the next is made: of a million texts every one has 80 to 160 MB."""
        row_bits = max(1, int(num_rows).bit_length())
        codes.sort()
        self.run_rows = (codes & np.uint64((1 << row_bits) - 1)).astype(np.int32)
        codes >>= np.uint64(row_bits)
        is_first = np.ones(len(codes), bool)
        is_first[1:] = codes[1:] != codes[:-1]
        del codes
        starts = np.flatnonzero(is_first).astype(np.uint32 if len(is_first) < 1 << 32 else np.int64)
        holders = np.diff(starts, append=starts.dtype.type(len(is_first))).astype(np.int32)
        del is_first
        by_rarity = np.argsort(holders, kind="stable")
        self.holders_R, self.run_starts = holders[by_rarity], starts[by_rarity]
        del starts
        rank = np.empty(len(holders), np.int32)
        rank[by_rarity] = np.arange(len(holders), dtype=np.int32)
        del by_rarity
        row_codes = self.run_rows.astype(np.int64)
        row_codes <<= 32
        row_codes |= np.repeat(rank, holders)
        del holders, rank
        row_codes.sort()
        row_codes &= 0xFFFFFFFF
        self.row_runs = row_codes.astype(np.int32)
        self.sizes_N = np.bincount(self.run_rows, minlength=num_rows)
        self.row_starts = np.concatenate(([0], np.cumsum(self.sizes_N)))

    def candidates(self, most_holders: int, at_least: int) -> Iterator[tuple[Ints, Ints]]:
        """Rows (i, j) of which the rarest half of i's runs, and one more, shares some with j, which is no shorter.
        Runs with more than `most_holders` rows are not followed; `at_least` shared ones are asked of rows with four or
        more that are."""
        for first in range(0, len(self.sizes_N), _ROWS_AT_ONCE):
            rows = np.arange(first, min(first + _ROWS_AT_ONCE, len(self.sizes_N)))
            rows, runs = self._followed(rows, most_holders)
            needed = np.where(np.bincount(rows, minlength=len(self.sizes_N)) >= 4, at_least, 1)
            ends = np.cumsum(self.holders_R[runs], dtype=np.int64)
            start = 0
            while start < len(rows):
                # a chunk ends with a row, so that all that it shares with another is counted together
                end = int(np.searchsorted(ends, (ends[start - 1] if start else 0) + _PAIRS_AT_ONCE, "right"))
                end = int(np.searchsorted(rows, rows[min(max(end, start), len(rows) - 1)], "right"))
                yield self._pairs(rows[start:end], runs[start:end], needed)
                start = end

    def _followed(self, rows: Ints, most_holders: int) -> tuple[Ints, Ints]:
        """The rarest half of these rows' runs that others hold, but not too many, with their rows."""
        sizes = self.sizes_N[rows] // 2 + 1
        sizes = np.minimum(sizes, self.sizes_N[rows])
        runs = self.row_runs[_ranges(self.row_starts[rows], sizes)]
        kept = (self.holders_R[runs] > 1) & (self.holders_R[runs] <= most_holders)
        return np.repeat(rows, sizes)[kept], runs[kept]

    def _pairs(self, rows: Ints, runs: Ints, needed: Ints) -> tuple[Ints, Ints]:
        held = self.holders_R[runs]
        i = np.repeat(rows, held)
        j = self.run_rows[_ranges(self.run_starts[runs], held)].astype(np.int64)
        kept = (self.sizes_N[j] > self.sizes_N[i]) | ((self.sizes_N[j] == self.sizes_N[i]) & (j != i))
        codes, times = np.unique(i[kept] << 32 | j[kept], return_counts=True)
        i, j = codes >> 32, codes & 0xFFFFFFFF
        enough = times >= needed[i]
        return i[enough], j[enough]

    def shared(self, i: Ints, j: Ints, weights_R: Ints) -> tuple[Ints, Ints]:
        """How many runs rows i and j share, and what these weigh together: the runs of both side by side, and sorted."""
        pair = np.arange(len(i), dtype=np.int64) << 32
        sides = []
        for rows in (i, j):
            sizes = self.sizes_N[rows]
            sides.append(np.repeat(pair, sizes) | self.row_runs[_ranges(self.row_starts[rows], sizes)])
        codes = np.concatenate(sides)
        codes.sort()
        codes = codes[1:][codes[1:] == codes[:-1]]
        pairs = codes >> 32
        weights = np.bincount(pairs, weights_R[codes & 0xFFFFFFFF], minlength=len(i))
        return np.bincount(pairs, minlength=len(i)), weights

    def weights_of_rows(self, weights_R: Ints) -> Ints:
        """What the runs of each row weigh together."""
        weights_N = np.zeros(len(self.sizes_N))
        for first in range(0, len(self.sizes_N), _ROWS_AT_ONCE):
            sizes = self.sizes_N[first : first + _ROWS_AT_ONCE]
            weights = weights_R[self.row_runs[self.row_starts[first] : self.row_starts[first + len(sizes)]]]
            rows = np.repeat(np.arange(len(sizes)), sizes)
            weights_N[first : first + len(sizes)] = np.bincount(rows, weights, minlength=len(sizes))
        return weights_N

    def words_of(self, row: int) -> list[int]:
        words: list[int] = self.words_T[self.word_starts[row] : self.word_starts[row + 1]].tolist()
        return words


def _ranges(starts: Ints, sizes: Ints) -> Ints:
    """start, start + 1, ... of each, one behind the other."""
    sizes = sizes.astype(np.int64)
    ranges: Ints = np.arange(sizes.sum()) + np.repeat(starts.astype(np.int64) - np.cumsum(sizes) + sizes, sizes)
    return ranges


def _numbered(texts: Sequence[str], progress: Callable[[str, int], None] | None) -> tuple[Ints, Ints, list[str]]:
    """All words as numbers in the order in which they are first met, where each text begins among them, and the
    words."""
    numbers: defaultdict[bytes, int] = defaultdict(count().__next__, {BEGINS: -1})
    flat, sizes = array("i"), [np.zeros(1, np.int64)]  # an array grows in place: blocks put together would stand twice
    for first in range(0, len(texts), _ROWS_FOLDED):
        words = fold_all(texts[first : first + _ROWS_FOLDED]).split()
        found = np.fromiter(map(numbers.__getitem__, words), np.int32, len(words))
        sizes.append(np.diff(np.flatnonzero(found < 0), append=len(found)) - 1)
        flat.frombytes(found[found >= 0].tobytes())
        if progress and not first % 50_000:
            progress("rows compared", first)
    words_T = np.frombuffer(flat, np.int32) if flat else np.zeros(0, np.int32)
    return words_T, np.cumsum(np.concatenate(sizes)), [word.decode() for word in list(numbers)[1:]]


def _coded(words_T: Ints, word_starts: Ints, vocabulary: int) -> Ints:
    """Each two words that stand together in a row, as one number, with the row in the low bits; of a row with one word,
    that word. Each once a row; some rows at a time, so that nothing but the result is large."""
    num_rows, end = len(word_starts) - 1, 0
    row_bits = max(1, num_rows.bit_length())
    codes = np.empty(len(words_T), np.uint64)
    for first in range(0, num_rows, _ROWS_AT_ONCE):
        starts = word_starts[first : first + _ROWS_AT_ONCE + 1]
        sizes = np.diff(starts)
        words = words_T[starts[0] : starts[-1]].astype(np.uint64)
        follows = np.append(words[1:], np.uint64(0))
        kept = np.ones(len(words), bool)
        kept[starts[1:][sizes > 1] - starts[0] - 1] = False  # a row's last word begins no run, but where it is alone
        follows[starts[:-1][sizes == 1] - starts[0]] = vocabulary
        keys = _fitted(words * np.uint64(vocabulary + 1) + follows, vocabulary, 64 - row_bits) << np.uint64(row_bits)
        keys |= np.repeat(np.arange(first, first + len(sizes), dtype=np.uint64), sizes)
        found = keys[kept]
        found.sort()  # not np.unique, which hashes integers first
        found = found[np.append(True, found[1:] != found[:-1])] if len(found) else found
        codes[end : end + len(found)] = found
        end += len(found)
    return codes[:end]


def _fitted(keys: Ints, vocabulary: int, bits: int) -> Ints:
    """Keys in so many bits: as they are, or, where there are too many words, their hash."""
    if ((vocabulary + 1) ** 2).bit_length() <= bits:
        return keys
    hashed: Ints = keys * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(64 - bits)
    return hashed
