"""Rows that say themselves of which split they are, in a column of their own: what is held back there is never trained.

    {"text": "...", "split": "train"}   {"text": "...", "split": "test"}   {"text": "...", "split": "unlabelled"}

Trained are the rows of `train` and those that say nothing; held out those of `validation`, or of `test` where there are
none; the others are left alone. A column is one of splits when it is called so and its first values say so."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from florilegium.data.column_names import folded, words_of
from florilegium.data.split_files import SPLIT_WORDS, TRAIN, split_of
from florilegium.errors import DataError

_NAMES = {"split", "splits", "set", "subset", "partition", "fold", "usage", "phase", "datasplit", "dataset"}
_LONGEST = 30  # "validation (unseen)"


def split_column(names: Iterable[str], rows: Sequence[Mapping[str, object]], asked: Collection[str]) -> str | None:
    """The column that says the split of each row, unless it was `asked` for as something else."""
    taken = set(map(folded, asked))
    called = (n for n in names if not _NAMES.isdisjoint(words_of(n)) and folded(n) not in taken)
    return next((name for name in called if _say_splits([row.get(name) for row in rows])), None)


def _say_splits(values: Iterable[object]) -> bool:
    """Whether half of the different values or more are splits, and all are as short: "train", "test", "unlabelled"."""
    filled = [value for value in values if value not in (None, "")]
    if not all(isinstance(value, str) and len(value) <= _LONGEST for value in filled):
        return False
    distinct = set(map(str, filled))
    known = sum(split_of(value) is not None for value in distinct)
    return known > 0 and 2 * known >= len(distinct)


def side_of(value: object) -> str:
    """The split that a row says it is of; `TRAIN` where it says nothing."""
    if not isinstance(value, str) or not value.strip():
        return TRAIN
    return split_of(value[:_LONGEST]) or value.strip()[:_LONGEST]


def held_side(sides: Collection[str]) -> str | None:
    """Of splits that are not for training, the one to measure by."""
    return next((side for side in SPLIT_WORDS if side in sides), None)


def no_training_rows(where: str, sides: Sequence[str]) -> DataError:
    return DataError(
        f"{where} has rows of {' and '.join(sides)} alone, and none to train on",
        "Give the rows to train on: in a file of their own, or as 'train' there",
    )
