"""Which rows are held out: decided by each row's own text, never by its position.

    held out  <=>  sha256(seed, folded text of the first column) < share    (the hash read as a number in [0, 1))

So a row keeps its side when the file grows or is sorted anew, and a quote that stands in the file twice, with other tags, other
spacing or another case, is never both trained and examined. Shuffling the row numbers would leak those.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from ..errors import UsageError
from .quote import Quote, join_items

_FEW_ROWS = 10


def split_rows(quotes: Sequence[Quote], held_out_share: float, seed: int = 0) -> tuple[list[int], list[int]]:
    """Indices for training and held out, each in ascending order. `held_out_share` is in [0, 1); 0 holds nothing out.

    Two exceptions to the rule above, for small files: with 10 rows or more at least one row is held out (the one that the rule
    would have taken next), and training always keeps a row.

    Raises: UsageError for a share that is not in [0, 1).
    """
    if not 0 <= held_out_share < 1:
        raise UsageError(f"the held-out share is {held_out_share}", "Give a share from 0 up to, but not, 1, such as 0.1")
    drawn = [_draw(quote, seed) for quote in quotes]
    limit = _limit(drawn, held_out_share)
    train = [index for index, number in enumerate(drawn) if number >= limit]
    return train, [index for index, number in enumerate(drawn) if number < limit]


def _limit(drawn: list[float], share: float) -> float:
    """The number under which a row is held out: the share, unless that would empty one of the sides."""
    distinct = sorted(set(drawn))
    if not share or len(distinct) < 2:
        return 0.0  # nothing to hold out, or a single quote: it is for training
    if len(drawn) >= _FEW_ROWS:
        share = max(share, distinct[1])
    return min(share, distinct[-1])


def _draw(quote: Quote, seed: int) -> float:
    """A number in [0, 1) that depends on the text and the seed only."""
    text = " ".join(join_items(next(iter(quote.values()))).casefold().split())
    number = int.from_bytes(hashlib.sha256(f"{seed}\n{text}".encode()).digest()[:6], "big")
    return number / 2**48
