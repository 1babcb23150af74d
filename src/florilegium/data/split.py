"""Which rows are held out: decided by each row's own text, and near-copies stay on one side.

    held out  <=>  sha256(seed, folded text of the first column) < share    (the hash read as a number in [0, 1))

Where a third of the rows have the same first text (an instruction that all follow), other columns tell those apart.

So a row keeps its side when the file grows, and a quote that stands there twice, with other tags or another case, is
never both trained and examined. `by` says what else stays together:

    cluster   a row that is nearly the same as earlier rows (`near_duplicates.py`) takes their side
    author    all rows of an author: the hash is of the column `author`
    random    nothing else: what other tools do, and what leaks

The first row of a cluster decides for it, and rows that are added behind never change what stands before them. A row
that is near to earlier rows of *both* sides would leak wherever it went: it is set aside, and neither trained nor
examined.

Of 30 held-out rows or more some are validation rows, by another hash of the same text: they choose the step whose
adapter is kept, and when to stop; the others, the test rows, choose nothing, and are what is reported. Which rows are
trained does not depend on it."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from florilegium.config import TrainConfig
from florilegium.data.collector import without_collector
from florilegium.data.near_duplicates import Pair, clusters, near_pairs
from florilegium.data.quote import FEW_ROWS, Quote, telling_texts
from florilegium.data.rows import Rows
from florilegium.errors import DataError, UsageError

SPLIT_BY = ("near-duplicates", "author", "random")
SMALLEST_MOULD = 30
FEWEST_TO_PART = 30


@dataclass(frozen=True)
class Split:
    """Indices of the rows on each side and of those set aside, ascending; `pairs` are the near-duplicates among all
    rows, but for those of a cluster that is too large to be one text: it has so many rows (`one_mould`). `validation`
    are those held-out rows that choose the best step; none where all of them both choose and are reported."""

    training: list[int]
    held_out: list[int]
    set_aside: list[int]
    pairs: list[Pair]
    one_mould: int = 0
    validation: tuple[int, ...] = ()

    @property
    def test(self) -> list[int]:
        """The held-out rows that are reported."""
        choosing = set(self.validation)
        return [i for i in self.held_out if i not in choosing]

    @property
    def leaks(self) -> int:
        """Near-duplicate pairs with one row on each side."""
        return count_leaks(self.pairs, self.held_out, self.set_aside)


def split_rows(
    quotes: Sequence[Quote],
    held_out_share: float,
    seed: int = 0,
    *,
    by: str = "near-duplicates",
    authors: Sequence[str] = (),
) -> tuple[list[int], list[int]]:
    """The two sides of `make_split`: indices for training and held out."""
    split = make_split(quotes, held_out_share, seed, by=by, authors=authors)
    return split.training, split.held_out


@without_collector()
def make_split(
    quotes: Sequence[Quote],
    held_out_share: float,
    seed: int = 0,
    *,
    by: str = "near-duplicates",
    authors: Sequence[str] = (),
    on: str = "auto",
    pairs: list[Pair] | None = None,
    held_out_from: int | None = None,
    progress: Callable[[str, int], None] | None = None,
) -> Split:
    """The sides of all rows. `held_out_share` is in [0, 1), 0 holds nothing out; `authors` has one for each quote, ""
    where unknown; `pairs` are those of `near_pairs`, if they are known already. With `held_out_from` the data hold rows
    out by themselves, from that one on: nothing is drawn, and what is near to one of them leaves the training side.

    Two exceptions to the rule of the hash, for small files: with 10 rows or more at least one row is held out (the one
    that the rule would have taken next), and training always keeps a row.

    `on` is that of `telling_texts`.

    Raises: UsageError for a share that is not in [0, 1) or an unknown `by`; DataError for `by="author"` without
    authors."""
    if not 0 <= held_out_share < 1:
        raise UsageError(f"--held-out is {held_out_share}", "It takes a fraction: 0 or more, and less than 1")
    if by not in SPLIT_BY:
        raise UsageError(f"--split-by {by}", f"It takes one of {', '.join(SPLIT_BY)}")
    if by == "author" and not any(authors):
        raise DataError(
            "the rows have no column 'author' with text in it",
            "Use --split-by near-duplicates, or name that column author",
        )
    texts = telling_texts(quotes, on)
    pairs, one_mould = trusted(near_pairs(texts, progress) if pairs is None else pairs, len(texts))
    if held_out_from is not None:
        return _given_split(texts, pairs, held_out_from, follow=by != "random")
    drawn = [_draw(text, seed) for text in texts]
    if by == "author":
        drawn = [
            _draw(f"author {author}", seed) if author.strip() else number
            for author, number in zip(authors, drawn, strict=True)
        ]
    sides = _sides(drawn, [] if by == "random" else pairs, held_out_share, follow=by == "near-duplicates")
    numbers = range(len(quotes))
    training, held_out, aside = ([i for i in numbers if sides[i] is side] for side in (False, True, None))
    return Split(training, held_out, aside, pairs, one_mould)


def trusted(pairs: list[Pair], num_rows: int) -> tuple[list[Pair], int]:
    """The pairs without those of a cluster that takes a third of the rows, and its size: texts of one mould (titles,
    forms) hang together link by link, and nothing could be held out of them."""
    largest = next(iter(clusters(num_rows, pairs)), [])
    if len(largest) < SMALLEST_MOULD or 3 * len(largest) <= num_rows:
        return pairs, 0
    inside = set(largest)
    return [pair for pair in pairs if pair[0] not in inside], len(largest)


def count_leaks(pairs: Iterable[Pair], held_out: Iterable[int], set_aside: Iterable[int] = ()) -> int:
    """Pairs with one row held out and the other trained."""
    out, aside = set(held_out), set(set_aside)
    return sum((i in out) != (j in out) for i, j in pairs if not aside & {i, j})


def _given_split(texts: Sequence[str], pairs: list[Pair], held_out_from: int, *, follow: bool) -> Split:
    """The sides that the data have: with `follow`, rows that say nearly or exactly what is held out are set aside."""
    held_out = list(range(held_out_from, len(texts)))
    near = {i for i, j in pairs if i < held_out_from <= j}
    held_texts = {_folded(texts[i]) for i in held_out}
    near |= {i for i in range(held_out_from) if _folded(texts[i]) in held_texts}
    aside = near if follow else set()
    return Split([i for i in range(held_out_from) if i not in aside], held_out, sorted(aside), pairs)


def split_by_config(config: TrainConfig, rows: Rows, progress: Callable[[str, int], None] | None = None) -> Split:
    """`make_split` as the settings of a run say it, its held-out rows parted."""
    split = make_split(
        rows.quotes,
        config.held_out,
        config.seed,
        by=config.split_by,
        authors=rows.authors,
        on=config.split_on,
        held_out_from=rows.held_out_from,
        progress=progress,
    )
    authors = rows.authors if config.split_by == "author" else ()
    return part_held_out(split, telling_texts(rows.quotes, config.split_on), config.validation, config.seed, authors)


def part_held_out(
    split: Split, texts: Sequence[str], share: float, seed: int = 0, authors: Sequence[str] = ()
) -> Split:
    """`split` with `share` of its held-out rows for validation, near-duplicates and rows of one of `authors` together;
    as it is where fewer than FEWEST_TO_PART are held out, or one of the sides would have none."""
    if not share or len(split.held_out) < FEWEST_TO_PART:
        return split
    out = set(split.held_out)
    near = clusters(len(texts), [pair for pair in split.pairs if out.issuperset(pair)])
    first = {i: rows[0] for rows in near for i in rows}

    def decides(i: int) -> str:
        author = authors[i].strip() if authors else ""
        return f"author {author}" if author else texts[first.get(i, i)]

    choosing = tuple(i for i in split.held_out if _draw(f"validation {decides(i)}", seed) < share)
    return replace(split, validation=choosing) if 0 < len(choosing) < len(out) else split


def _sides(drawn: Sequence[float], pairs: Iterable[Pair], share: float, *, follow: bool) -> list[bool | None]:
    """For each row whether it is held out; None sets it aside. Each looks at its near rows that stand before it: with
    `follow` it takes their side, else (its author has decided) it only must not contradict them."""
    before: defaultdict[int, list[int]] = defaultdict(list)
    for i, j in pairs:
        before[j].append(i)
    deciding = [number for row, number in enumerate(drawn) if not (follow and row in before)]
    limit = _limit(deciding, share, at_least_one=len(drawn) >= FEW_ROWS)
    sides: list[bool | None] = [number < limit for number in drawn]
    for row in sorted(before):
        found = {sides[i] for i in before[row]} - {None}
        if not (follow and found):
            found.add(drawn[row] < limit)
        sides[row] = found.pop() if len(found) == 1 else None
    return sides


def _limit(drawn: list[float], share: float, *, at_least_one: bool) -> float:
    """The number under which a row is held out: the share, unless that would empty one of the sides."""
    first, last = min(drawn, default=0.0), max(drawn, default=0.0)
    if not share or first == last:
        return 0.0  # nothing to hold out, or a single quote: it is for training
    if at_least_one:
        share = max(share, min(number for number in drawn if number > first))
    return min(share, last)


def _draw(text: str, seed: int) -> float:
    """A number in [0, 1) that depends on the text and the seed only."""
    number = int.from_bytes(hashlib.sha256(f"{seed}\n{_folded(text)}".encode()).digest()[:6], "big")
    return number / 2**48


def _folded(text: str) -> str:
    """Without case, and with one blank where white space stood."""
    folded = text.casefold()
    if folded.isprintable() and "  " not in folded:  # then a blank is all the white space there is
        return folded.strip(" ")
    return " ".join(folded.split())
