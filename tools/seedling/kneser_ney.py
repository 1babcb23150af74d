"""An interpolated modified Kneser-Ney model over token ids, exact, by sorting: the yardstick for the student.

After Chen and Goodman (1998, "An Empirical Study of Smoothing Techniques for Language Modeling", section 3): the
highest order uses counts, the lower orders use the number of different tokens seen before (continuation counts), each
order has three discounts computed from its own counts of counts, and the unigrams are interpolated with the uniform
distribution.

Training and test text are numbered together: an n-gram's id is the rank of (id of its first n - 1 tokens, last token)
among all that occur in either, so a test n-gram finds its training count by its id, and no lookup is needed. Only
training positions are counted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .tokenizer import END


def stream(documents: Sequence[np.ndarray], order: int) -> tuple[np.ndarray, np.ndarray]:
    """All documents in a row, before each `order - 1` starts, behind each one `</s>`; and which positions are predicted
    (all but the starts)."""
    starts = np.full(order - 1, END, dtype=np.int64)
    end = np.full(1, END, dtype=np.int64)
    tokens = np.concatenate([part for document in documents for part in (starts, document, end)])
    predicted = np.ones(len(tokens), dtype=bool)
    lengths = np.array([len(document) for document in documents]) + order
    first = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    for offset in range(order - 1):
        predicted[first + offset] = False
    return tokens, predicted


def discounts(counts: np.ndarray) -> np.ndarray:
    """`[4]`: what is taken from a count of 0, 1, 2, and 3 or more."""
    n1, n2, n3, n4 = (max(1, int((counts == c).sum())) for c in (1, 2, 3, 4))
    y = n1 / (n1 + 2 * n2)
    return np.array([0.0, max(0.0, 1 - 2 * y * n2 / n1), max(0.0, 2 - 3 * y * n3 / n2), max(0.0, 3 - 4 * y * n4 / n3)])


def gram_ids(tokens: np.ndarray, order: int, vocabulary: int) -> list[np.ndarray]:
    """For each order the dense id of the n-gram that ends at each position; `[0]` is the empty one."""
    ids = [np.zeros(len(tokens), dtype=np.int64), tokens]
    for _ in range(2, order + 1):
        before = np.concatenate([[0], ids[-1][:-1]])
        ids.append(np.unique(before * vocabulary + tokens, return_inverse=True)[1])
    return ids


def probabilities(
    train: Sequence[np.ndarray], test: Sequence[np.ndarray], vocabulary: int, order: int = 5
) -> np.ndarray:
    """The probability of each predicted token of the test documents (their closing `</s>` included), in order."""
    train_tokens, train_predicted = stream(train, order)
    test_tokens, test_predicted = stream(test, order)
    tokens = np.concatenate([train_tokens, test_tokens])
    counted = np.flatnonzero(train_predicted)
    asked = np.flatnonzero(test_predicted) + len(train_tokens)
    ids = gram_ids(tokens, order, vocabulary)

    seen_at = [np.unique(ids[n][counted], return_index=True) for n in range(order + 1)]
    result = np.full(len(asked), 1.0 / vocabulary)
    for n in range(1, order + 1):
        size = int(ids[n].max()) + 1
        if n == order:
            counts = np.bincount(ids[n][counted], minlength=size)
        else:  # how many different (n + 1)-grams end in this n-gram
            counts = np.bincount(ids[n][counted[seen_at[n + 1][1]]], minlength=size)
        grams, at = seen_at[n]
        context_of_gram = ids[n - 1][counted[at] - 1] if n > 1 else np.zeros(len(grams), dtype=np.int64)
        gram_counts, contexts = counts[grams], int(ids[n - 1].max()) + 1
        taken = discounts(gram_counts)
        total = np.bincount(context_of_gram, weights=gram_counts, minlength=contexts)
        freed = np.bincount(context_of_gram, weights=taken[np.minimum(gram_counts, 3)], minlength=contexts)

        context = ids[n - 1][asked - 1] if n > 1 else np.zeros(len(asked), dtype=np.int64)
        count = counts[ids[n][asked]]
        known = total[context] > 0
        safe_total = np.where(known, total[context], 1.0)
        here = (count - taken[np.minimum(count, 3)]) / safe_total + freed[context] / safe_total * result
        result = np.where(known, here, result)
    return result
