"""Which files of a folder are for training and which are kept apart, by their names.

    train.jsonl  validation.jsonl  test.jsonl          trained: train; held out: validation; left alone: test
    data/train-00000-of-00001.parquet  data/test-...   trained: train; held out: test
    train/a.csv  test/b.csv                            likewise
    a.csv  b.csv  test.csv                             no train among them: one heap

A name is of a split when one of its words is (`quotes_train.csv`). What a split holds back is never trained."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from florilegium.errors import DataError

T = TypeVar("T")
TRAIN = "train"
# In the order in which they are taken to be held out.
SPLIT_WORDS: Mapping[str, tuple[str, ...]] = {
    TRAIN: ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "development"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_WORD = re.compile(r"[a-z]+")


@dataclass(frozen=True)
class Chosen(Generic[T]):
    """What is trained, what is held out, and what was decided, in a sentence."""

    trained: tuple[T, ...]
    held_out: tuple[T, ...] = ()
    said: str = ""


def split_of(name: str) -> str | None:
    """The split that a file's or a folder's name speaks of."""
    words = _WORD.findall(name.lower())
    return next((split for split, known in SPLIT_WORDS.items() if any(word in known for word in words)), None)


def by_split(named: Iterable[tuple[str, T]]) -> dict[str, list[T]]:
    """The files of each split, where one of them is for training; those without such a name are under an empty one."""
    found: dict[str, list[T]] = {}
    for name, file in named:
        found.setdefault(split_of(name) or "", []).append(file)
    return found if TRAIN in found and len(found) > 1 else {}


def choose_splits(splits: Mapping[str, Sequence[T]], asked: str | None, where: str) -> Chosen[T]:
    """The sides of splits that are there already. With `asked`, that one alone, and its held-out rows are drawn from it.

    Raises: DataError when the split that was asked for is not there."""
    names = [name for name in splits if name]
    if asked:
        wanted = asked if asked in splits else split_of(asked)
        if not wanted or wanted not in splits:
            raise DataError(f"{where}: there is no split {asked!r}", f"Choose one of: {', '.join(names)}")
        return Chosen(tuple(splits[wanted]), said=f"split '{wanted}' alone")
    trained = TRAIN if TRAIN in splits else names[0]
    held_out = next((name for name in SPLIT_WORDS if name != trained and name in splits), None)
    others = [name or "files of no split" for name in splits if name not in (trained, held_out)]
    parts = [f"training rows from '{trained}'", f"held out: '{held_out}'" if held_out else ""]
    parts.append(f"left alone: {', '.join(others)}" if others else "")
    said = "; ".join(filter(None, parts))
    return Chosen(tuple(splits[trained]), tuple(splits[held_out]) if held_out else (), said if len(splits) > 1 else "")
