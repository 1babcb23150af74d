"""Complement naive Bayes (Rennie et al., ICML 2003): a tag is likely where the text is unlike all rows *without* it.

    score(tag) = - sum over the text's features f of log( (D_f + a) / (sum(D) + a * features) )
    D_f        = training rows that have f and do not have the tag

The plain form estimates a rare tag's words from its few rows; the complement has all the others to go by, and is the
stronger of the two on short texts with many tags. A text's features count once. The smoothing `a` is chosen by
leave-one-out on training rows (`baselines.py`), where the row's own counts are taken out exactly."""

from __future__ import annotations

import numpy as np

from florilegium.evaluation.tag_table import TagTable
from florilegium.evaluation.text_index import Postings, TextIndex, flat

SMOOTHINGS = (0.1, 0.3, 1.0, 3.0)


class NaiveBayes:
    """Ranks tags by the complement of their rows."""

    key, name = "naive_bayes", "naive Bayes"
    variants: tuple[dict[str, float], ...] = tuple({"smoothing": a} for a in SMOOTHINGS)

    def __init__(self, index: TextIndex, tags: TagTable) -> None:
        self.index, self.tags = index, tags
        num_features, num_tags = len(index.numbers), len(tags.names)
        self.rows_F = np.bincount(flat(index.rows), minlength=num_features).astype(np.float64)
        pairs = [(np.repeat(f, len(t)), np.tile(t, len(f))) for f, t in zip(index.rows, tags.rows, strict=True)]
        features, owned = (flat([pair[i] for pair in pairs]) for i in (0, 1))
        self.tags_of = Postings(features, owned, num_features, num_tags)
        self.inside_T = np.bincount(owned, minlength=num_tags).astype(np.float64)  # features in rows with the tag

    def scores(self, ids: np.ndarray, without: int | None = None) -> np.ndarray:
        """Float64 [variants, tags]; the term that all tags share is left out."""
        places, tags, inside = self.tags_of.of(ids)
        rows_f, left_out = self.rows_F[ids], np.zeros(len(self.tags.names))
        total = self.rows_F.sum()
        if without is not None:  # `ids` are that row's own features
            rows_f, total = rows_f - 1, total - len(ids)
            left_out[self.tags.rows[without]] = 1
        # Rows with the feature and without the tag; the row left out had its own tags and is in neither count.
        outside = rows_f[places] - inside + left_out[tags]
        outside_T = total - self.inside_T + left_out * len(ids)
        found = []
        for a in SMOOTHINGS:
            gain = np.log(rows_f[places] + a) - np.log(outside + a)
            gain_T = np.bincount(tags, weights=gain, minlength=len(self.tags.names))
            found.append(gain_T + len(ids) * np.log(outside_T + a * len(self.rows_F)))
        return np.stack(found)
