"""What the teacher wrote, row by row, with the opinions that belong to it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .plain import WORD

READINGS = Path(__file__).parent / "readings.tsv"
RARE = 1 / 20_000  # a word that fewer sayings than this share use


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def read_shards(folder: Path) -> Iterator[dict[str, Any]]:
    """All rows. The `sense` of a saying is the readers' taste, where `taste` has carried it over."""
    for path in sorted(folder.glob("*.jsonl")):
        taste = path.with_suffix(".taste.npy")
        scores = iter(np.load(taste).tolist()) if taste.exists() else None
        for row in read_rows(path):
            yield row | {"sense": next(scores)} if scores is not None and "sense" in row else row


def words_of(text: str) -> list[str]:
    return [word.removesuffix("'s").removesuffix("’s") for word in WORD.findall(text.lower())]


def known_words(texts: Iterable[str]) -> frozenset[str]:
    """The words that at least a `RARE` share of the texts hold."""
    counts: Counter[str] = Counter()
    number = 0
    for number, text in enumerate(texts, 1):  # noqa: B007
        counts.update(set(words_of(text)))
    return frozenset(word for word, count in counts.items() if count >= RARE * number)


def sample_texts(path: Path) -> Iterator[str]:
    """The quotes of a JSONL file of the package's sample; none where there is no file yet."""
    if path.exists():
        with path.open(encoding="utf-8") as file:
            yield from (json.loads(line)["quote"] for line in file)


def read_readings(path: Path) -> dict[str, float]:
    """What people read: 1.0 for a saying that they kept, 0.0 for one that they did not."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return {text: float(mark == "+") for mark, text in (line.split("\t") for line in lines)}
