"""Two runs on the same rows: what they differ by, row by row, and whether that is more than chance.

    run A    row 1 lost 61.2 nats on 14 tokens, row 2 ...        A - B over the rows that both have, drawn anew
    run B    row 1 lost 60.9 nats on 14 tokens, row 2 ...        1,000 times, the same rows for both

Rows differ far more from one another than two runs do on one row, so a paired interval is several times narrower than
what the intervals of the two runs leave open. A row is known by the hash of its text: runs whose splits overlap are
compared on what they share."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from florilegium.evaluation.confidence import bootstrap_weights, interval_of
from florilegium.evaluation.losses import RowParts
from florilegium.evaluation.metrics import Metric

FEWEST_ROWS = 10
Sums = dict[str, list[float]]


@dataclass(frozen=True)
class PairedLine:
    """A metric that is a ratio of sums over rows: the keys of `sums_of_rows` that it divides."""

    name: str
    above: str
    below: str
    better: str
    factor: float = 1.0


LINES = (
    PairedLine("loss of the words", "word_nats", "word_tokens", "lower"),
    PairedLine("bits per byte of the words", "word_nats", "word_bytes", "lower", 1 / math.log(2)),
    PairedLine("loss of tag words", "tag_word_nats", "tag_word_tokens", "lower"),
    PairedLine("loss of all tokens", "nats", "tokens", "lower"),
    PairedLine("tag micro F1", "tags_right_twice", "tags_written_and_wanted", "higher"),
)


@dataclass(frozen=True)
class PairedDifference:
    """The second run's metric minus the first's, on `rows` rows that both were measured on."""

    name: str
    better: str
    first: float
    second: float
    change: Metric
    rows: int

    @property
    def is_seen(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.change.low > 0 or self.change.high < 0

    def verdict(self, first: str, second: str) -> str:
        """Which of the two is better, or that no difference was seen."""
        if not self.is_seen:
            return "no difference seen"
        return f"{second if (self.change.value < 0) == (self.better == 'lower') else first} is better"


def row_key(text: str) -> str:
    """What a row is known by in evaluation.json."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def sums_of_rows(
    texts: Sequence[str],
    rows: Sequence[RowParts],
    written: Sequence[Sequence[str]] | None,
    wanted: Sequence[Sequence[str]] | None,
) -> dict[str, object]:
    """The sums of each row that `LINES` divide, as evaluation.json has them; a row that wants no tag has none to be
    scored by."""
    wholes = [row.quote + row.tags for row in rows]
    words, tag_words = [row.words for row in rows], [row.parts["tag_words"] for row in rows]
    sums: dict[str, object] = {
        "row": [row_key(text) for text in texts],
        "nats": [round(part.nats, 4) for part in wholes],
        "tokens": [part.tokens for part in wholes],
        "word_nats": [round(part.nats, 4) for part in words],
        "word_tokens": [part.tokens for part in words],
        "word_bytes": [part.bytes for part in words],
        "tag_word_nats": [round(part.nats, 4) for part in tag_words],
        "tag_word_tokens": [part.tokens for part in tag_words],
    }
    if written is not None and wanted is not None:
        pairs = [
            (set(mine), set(theirs)) if theirs else (set(), set()) for mine, theirs in zip(written, wanted, strict=True)
        ]
        sums["tags_right_twice"] = [2 * len(mine & theirs) for mine, theirs in pairs]
        sums["tags_written_and_wanted"] = [len(mine) + len(theirs) for mine, theirs in pairs]
    return sums


def paired_differences(pairs: Iterable[tuple[object, object]]) -> list[PairedDifference]:
    """What the second of each pair differs by from the first, over all pairs together; a row that stands in several pairs
    is drawn with all that it has. A side is what `sums_of_rows` made, or something else that is passed over."""
    sides = [(_by_row(one), _by_row(other)) for one, other in pairs]
    found = []
    for line in LINES:
        sums: defaultdict[str, np.ndarray] = defaultdict(lambda: np.zeros(4))
        for one, other in sides:
            for key in one.keys() & other.keys():
                mine, theirs = (_pair(side[key], line) for side in (one, other))
                if mine and theirs:
                    sums[key] += (*mine, *theirs)
        if len(sums) >= FEWEST_ROWS and (
            difference := _difference(line, np.stack([sums[key] for key in sorted(sums)]))
        ):
            found.append(difference)
    return found


def _difference(line: PairedLine, sums_R4: np.ndarray) -> PairedDifference | None:
    """None where nothing stands below the line, and of a loss a token where the two have other tokens."""
    total = sums_R4.sum(0)
    if not total[1] or not total[3]:
        return None
    if line.below.endswith("tokens") and (sums_R4[:, 1] != sums_R4[:, 3]).any():
        return None
    weight = bootstrap_weights(len(sums_R4))
    drawn = weight @ sums_R4
    with np.errstate(divide="ignore", invalid="ignore"):
        changes = line.factor * (drawn[:, 2] / drawn[:, 3] - drawn[:, 0] / drawn[:, 1])
    first, second = (line.factor * total[i] / total[i + 1] for i in (0, 2))
    change = interval_of(second - first, changes[np.isfinite(changes)])
    return PairedDifference(line.name, line.better, float(first), float(second), change, len(sums_R4))


def _by_row(side: object) -> dict[str, dict[str, float]]:
    """{row: {name: number}}; nothing where it is not what `sums_of_rows` makes."""
    if not isinstance(side, Mapping) or not isinstance(side.get("row"), list):
        return {}
    keys = side["row"]
    columns = {name: column for name, column in side.items() if name != "row" and _is_numbers(column, len(keys))}
    return {
        key: {name: column[i] for name, column in columns.items()} for i, key in enumerate(keys) if isinstance(key, str)
    }


def _is_numbers(column: object, count: int) -> bool:
    if not isinstance(column, list) or len(column) != count:
        return False
    return all(isinstance(x, int | float) and math.isfinite(x) for x in cast("list[object]", column))


def _pair(row: Mapping[str, float], line: PairedLine) -> tuple[float, float] | None:
    return (row[line.above], row[line.below]) if line.above in row and line.below in row else None
