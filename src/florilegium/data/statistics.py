"""What is in the rows, in numbers, before anybody trains on them.

`describe` is the first half of what `florilegium inspect` prints (`quality.py` is the second). It counts; it changes
nothing and drops nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice

from florilegium.data.column_values import count_words
from florilegium.data.data_report import Found, Lengths, Skipped, SkippedRow, Statistics, TagCounts
from florilegium.data.mojibake import is_broken
from florilegium.data.quote import telling_texts
from florilegium.data.rows import Rows

_MOST_FREQUENT = 10
_PLACES_SHOWN = 10
_FEWEST_LETTERS = 3


def describe(rows: Rows) -> Statistics:
    """Counts, lengths, tags and suspects of `rows`; lengths are those of the main column, or of the others where it
    tells no rows apart."""
    main = telling_texts(rows.quotes)
    skipped = Counter(problem.group for problem in rows.skipped)
    return Statistics(
        notes=list(rows.notes),
        source=rows.source,
        digest=rows.digest,
        template=rows.template.text,
        columns=list(rows.columns),
        list_columns=list(rows.template.list_columns),
        num_rows=len(rows.quotes),
        num_read=rows.num_read,
        duplicates=rows.duplicates,
        skipped=Skipped(len(rows.skipped), dict(skipped.most_common()), _shown(p.place for p in rows.skipped)),
        skipped_rows=[SkippedRow(problem.place, problem.cause, problem.fix) for problem in rows.skipped],
        characters=_lengths([len(text) for text in main]),
        words=_lengths([count_words(text) for text in main]),
        tags=_tags(rows),
        broken_encoding=_suspects(rows, [is_broken(quote) for quote in rows.quotes]),
        very_short=_suspects(rows, [not _has_letters(text) for text in main]),
    )


def _has_letters(text: str) -> bool:
    """Whether there are some; nearly always the first signs tell."""
    return any(sum(map(str.isalpha, part)) >= _FEWEST_LETTERS for part in (text[:20], text))


def _lengths(lengths: Sequence[int]) -> Lengths:
    """Percentiles are by the nearest rank: always a length that occurs."""
    ordered = sorted(lengths)
    median, p90, p99 = (ordered[-(-len(ordered) * percent // 100) - 1] for percent in (50, 90, 99))
    return Lengths(ordered[0], median, p90, p99, ordered[-1])


def _tags(rows: Rows) -> TagCounts | None:
    """The first list column in numbers; None where the template has none."""
    if not rows.template.list_columns:
        return None
    column = rows.template.list_columns[0]
    counts = Counter(tag for quote in rows.quotes for tag in quote[column])
    return TagCounts(
        column,
        distinct=len(counts),
        once=sum(count == 1 for count in counts.values()),
        rows_without=sum(not quote[column] for quote in rows.quotes),
        most_frequent=counts.most_common(_MOST_FREQUENT),
    )


def _suspects(rows: Rows, suspected: list[bool]) -> Found:
    places = [place for place, yes in zip(rows.places, suspected, strict=True) if yes]
    return Found(len(places), _shown(places))


def _shown(places: Iterable[str]) -> list[str]:
    return list(islice(places, _PLACES_SHOWN))
