"""The tags of the training rows that are nearest by tf-idf: what can be had without a model.

    similarity(text, row) = cosine of their features, each weighed by idf = log((1 + rows) / (1 + rows with it)) + 1
    score(tag)            = sum of similarity over the K nearest rows that have the tag, / share of rows with it ** prior

K and `prior` (how far a common tag is held back) are chosen by leave-one-out on training rows (`baselines.py`). Among
rows that are equally near the earlier one comes first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from florilegium.evaluation.tag_table import TagTable
from florilegium.evaluation.text_index import TextIndex, owners

NEIGHBOURS = (1, 5, 20, 80, 320)
PRIORS = (0.0, 0.25, 0.5, 0.75)


class NearestRows:
    """Ranks tags by the nearest training rows."""

    key, name = "nearest_rows", "nearest rows (tf-idf)"
    variants: tuple[dict[str, float], ...] = tuple(
        {"neighbours": neighbours, "prior": prior} for neighbours in NEIGHBOURS for prior in PRIORS
    )

    def __init__(self, index: TextIndex, tags: TagTable) -> None:
        self.index, self.tags = index, tags
        rows_with = np.bincount(np.concatenate([*index.rows, []]).astype(np.int64), minlength=len(index.numbers))
        self.idf_F = np.log((1 + len(index.rows)) / (1 + rows_with)) + 1
        squares = np.bincount(owners(index.rows), minlength=len(index.rows), weights=self._squares())
        self.length_R = np.sqrt(np.maximum(squares, 1e-12))

    def similarities(self, ids: np.ndarray, without: int | None = None) -> np.ndarray:
        """Cosine with each training row, float64 [rows]; -1 for row `without`."""
        places, rows, _ = self.index.rows_with.of(ids)
        dots_R = np.bincount(rows, weights=self.idf_F[ids][places] ** 2, minlength=len(self.index.rows))
        own = np.sqrt(max(float((self.idf_F[ids] ** 2).sum()), 1e-12))
        similar_R = dots_R / (self.length_R * own)
        if without is not None:
            similar_R[without] = -1
        return np.asarray(similar_R)

    def scores(self, ids: np.ndarray, without: int | None = None) -> np.ndarray:
        """Float64 [variants, tags]."""
        similar_R = self.similarities(ids, without)
        order = np.argsort(-similar_R, kind="stable")[: max(NEIGHBOURS)]
        found = []
        for neighbours in NEIGHBOURS:
            rows = [r for r in order[:neighbours] if similar_R[r] > 0]
            summed_T = np.zeros(len(self.tags.names))
            for r in rows:
                summed_T[self.tags.rows[r]] += similar_R[r]
            found += [summed_T / self.tags.share_T**prior for prior in PRIORS]
        return np.stack(found)

    def _squares(self) -> np.ndarray:
        return np.concatenate([*(self.idf_F[row] ** 2 for row in self.index.rows), np.zeros(0)])


def nearest_texts(training: Sequence[str], texts: Sequence[str]) -> list[str]:
    """For each text the training text that is nearest: what retrieval gives in place of a generated one. It is
    well-formed and on the subject, and copied from end to end."""
    rows = NearestRows(TextIndex(training), TagTable([()] * len(training)))
    return [training[int(rows.similarities(rows.index.ids(text)).argmax())] for text in texts]
