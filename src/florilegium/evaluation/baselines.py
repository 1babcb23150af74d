"""What names tags without a language model, fitted to the same training rows: the tuned model's tags mean something
where they are better than these.

    nearest rows     the tags of the training rows that are nearest by tf-idf
    naive Bayes      complement naive Bayes over the same features

Settings and the number of tags that are named are chosen by leave-one-out on training rows (at most 1,000, evenly
spread): each is asked for the tags of a row as if it were not there, and the highest micro F1 wins, of several the first.
Held-out rows are seen once, as questions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from florilegium.evaluation.naive_bayes import NaiveBayes
from florilegium.evaluation.nearest_rows import NearestRows
from florilegium.evaluation.tag_table import TagTable
from florilegium.evaluation.text_index import TextIndex

MOST_LEFT_OUT = 1000
SIZES = (1, 2, 3, 4, 5, 6)  # how many tags a row is given


class TagRanker(Protocol):
    """Scores all known tags for a text, in several variants at once."""

    @property
    def key(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def variants(self) -> tuple[dict[str, float], ...]: ...
    @property
    def index(self) -> TextIndex: ...
    @property
    def tags(self) -> TagTable: ...
    def scores(self, ids: np.ndarray, without: int | None = None) -> np.ndarray: ...


@dataclass(frozen=True)
class TagBaseline:
    """A ranker with the variant and the number of tags that leave-one-out chose, and its micro F1 there."""

    ranker: TagRanker
    variant: int
    size: int
    left_out_f1: float

    @property
    def settings(self) -> dict[str, float]:
        return {**self.ranker.variants[self.variant], "tags": self.size, "leave_one_out_f1": round(self.left_out_f1, 4)}

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        """Of each known tag for each text: float64 [texts, tags]."""
        found = [self.ranker.scores(self.ranker.index.ids(text))[self.variant] for text in texts]
        return np.stack(found) if found else np.zeros((0, len(self.ranker.tags.names)))

    def tags_for(self, texts: Sequence[str]) -> list[list[str]]:
        return [self.ranker.tags.ranked(scores_T, self.size) for scores_T in self.scores(texts)]


def fit_baselines(texts: Sequence[str], tags: Sequence[Sequence[str]]) -> Iterator[TagBaseline]:
    """The baselines of training rows, one after the other; none where no row has a tag."""
    table = TagTable(tags)
    if not table.names:
        return
    index = TextIndex(texts)
    for ranker in (NearestRows(index, table), NaiveBayes(index, table)):
        yield chosen(ranker)


def chosen(ranker: TagRanker) -> TagBaseline:
    """The variant and the number of tags with the highest micro F1 on training rows that are left out one at a time."""
    rows = [r for r, own in enumerate(ranker.tags.rows) if len(own)]
    rows = rows[:: max(1, -(-len(rows) // MOST_LEFT_OUT))]
    sizes = [size for size in SIZES if size <= len(ranker.tags.names)]
    right_VS, wanted = np.zeros((len(ranker.variants), len(sizes))), 0
    for r in rows:
        order_VT = np.argsort(-ranker.scores(ranker.index.rows[r], r), axis=1, kind="stable")[:, : max(sizes)]
        right_VT = np.isin(order_VT, ranker.tags.rows[r]).cumsum(1)
        right_VS += right_VT[:, [size - 1 for size in sizes]]
        wanted += len(ranker.tags.rows[r])
    f1_VS = 2 * right_VS / (np.array(sizes) * len(rows) + wanted)
    variant, place = np.unravel_index(int(f1_VS.argmax()), f1_VS.shape)
    return TagBaseline(ranker, int(variant), sizes[int(place)], float(f1_VS[variant, place]))
