"""Which files of a folder are for training and which are kept apart, by their names.

    train.jsonl  validation.jsonl  test.jsonl          trained: train; held out: validation; not used: test
    data/train-00000-of-00001.parquet  data/test-...   trained: train; held out: test
    train/a.csv  test/b.csv                            likewise; a file's own name says more than its folder's
    a.csv  b.csv  test.csv                             trained: files of no split; held out: test
    validation.csv  test.csv                           nothing to train on: `--split` must say which
    a.csv  b.csv                                       no splits: one heap

A name is of a split when one of its words is (`quotes_train.csv`, `TestQuotes.csv`, `dev2.csv`). What a split holds
back is never trained."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from florilegium.errors import DataError

T = TypeVar("T")
TRAIN, NO_SPLIT = "train", ""
# In the order in which they are taken to be held out.
SPLIT_WORDS: Mapping[str, tuple[str, ...]] = {
    TRAIN: ("train", "training", "trainset"),
    "validation": (
        "validation",
        "valid",
        "val",
        "dev",
        "development",
        "valset",
        "devset",
        "holdout",
        "heldout",
        "held",
    ),
    "test": ("test", "testing", "testset", "eval", "evaluation", "evalset"),
}
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_WORD = re.compile(r"[a-z]+")


@dataclass(frozen=True)
class Chosen(Generic[T]):
    """What is trained, what is held out, and what was decided, in a sentence."""

    trained: tuple[T, ...]
    held_out: tuple[T, ...] = ()
    said: str = ""


def split_of(name: str) -> str | None:
    """The split that a file's or a folder's name speaks of."""
    words = _WORD.findall(_CAMEL.sub(" ", name).lower())
    return next((split for split, known in SPLIT_WORDS.items() if any(word in known for word in words)), None)


def by_split(named: Iterable[tuple[str | None, T]]) -> dict[str, list[T]]:
    """The files of each split; nothing where all are of one, or of none: such a folder has no sides."""
    found: dict[str, list[T]] = {}
    for split, file in named:
        found.setdefault(split or NO_SPLIT, []).append(file)
    return found if len(found) > 1 else {}


def choose_splits(splits: Mapping[str, Sequence[T]], asked: str | None, where: str) -> Chosen[T]:
    """The sides of splits that are there already. With `asked`, that one alone, and its held-out rows are drawn from it.

    Raises: DataError when the split that was asked for is not there, or none is for training."""
    names = [name for name in splits if name]
    if asked:
        wanted = asked if asked in splits else split_of(asked)
        if not wanted or wanted not in splits:
            raise DataError(f"{where}: there is no split {asked!r}", f"Choose one of: {', '.join(names)}")
        return Chosen(tuple(splits[wanted]), said=f"split '{wanted}' alone")
    trained = _for_training(splits, where)
    # of splits without names of this kind ("short", "long") none is for measuring
    held_out = next(
        (n for side in SPLIT_WORDS for n in names if n != trained and side != TRAIN and split_of(n) == side), None
    )
    others = [name or "files of no split" for name in splits if name not in (trained, held_out)]
    parts = [f"training rows from {_called(trained)}", f"held out: '{held_out}'" if held_out else ""]
    parts.append(f"not used: {', '.join(others)}" if others else "")
    said = "; ".join(filter(None, parts))
    return Chosen(tuple(splits[trained]), tuple(splits[held_out]) if held_out else (), said if len(splits) > 1 else "")


def _for_training(splits: Mapping[str, Sequence[T]], where: str) -> str:
    """The split called train, else one of that kind, else what no split claims, else the only one there is."""
    free = [TRAIN, *(name for name in splits if split_of(name) == TRAIN), NO_SPLIT]
    free += [name for name in splits if split_of(name) is None or len(splits) == 1]
    chosen = next((name for name in free if name in splits), None)
    if chosen is None:
        names = sorted(splits, key=lambda name: list(SPLIT_WORDS).index(split_of(name) or TRAIN))
        raise DataError(
            f"{where} has the splits {', '.join(names)}, and none to train on",
            f"Type --split {names[0]} to train on that one",
        )
    return chosen


def _called(split: str) -> str:
    return f"'{split}'" if split else "files of no split"
