"""What is in the rows, in numbers, before anybody trains on them.

`describe` is the first half of what `florilegium inspect` prints (`quality.py` is the second). It counts; it changes
nothing and drops nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice

from florilegium.data.column_values import count_words
from florilegium.data.data_report import Found, Statistics, TagCounts
from florilegium.data.mojibake import is_broken
from florilegium.data.quote import join_items
from florilegium.data.rows import Rows

_MOST_FREQUENT = 10
_PLACES_SHOWN = 10
_FEWEST_LETTERS = 3


def describe(rows: Rows) -> Statistics:
    """Counts, lengths, tags and suspects of `rows`, ready for JSON; lengths are those of the main column."""
    main = [join_items(quote[rows.template.main_column]) for quote in rows.quotes]
    skipped = Counter(problem.group for problem in rows.skipped)
    return {
        "source": rows.source,
        "digest": rows.digest,
        "template": rows.template.text,
        "columns": list(rows.columns),
        "list_columns": list(rows.template.list_columns),
        "num_rows": len(rows.quotes),
        "num_read": rows.num_read,
        "duplicates": rows.duplicates,
        "skipped": {
            "rows": len(rows.skipped),
            "causes": dict(skipped.most_common()),
            "places": _shown(p.place for p in rows.skipped),
        },
        "skipped_rows": [
            {"place": problem.place, "cause": problem.cause, "fix": problem.fix} for problem in rows.skipped
        ],
        "characters": _lengths([len(text) for text in main]),
        "words": _lengths([count_words(text) for text in main]),
        "tags": _tags(rows),
        "broken_encoding": _suspects(rows, [is_broken(quote) for quote in rows.quotes]),
        "very_short": _suspects(rows, [not _has_letters(text) for text in main]),
    }


def _has_letters(text: str) -> bool:
    """Whether there are some; nearly always the first signs tell."""
    return any(sum(map(str.isalpha, part)) >= _FEWEST_LETTERS for part in (text[:20], text))


def _lengths(lengths: Sequence[int]) -> dict[str, int]:
    """Smallest, median, 90th and 99th percentile (nearest rank: always a length that occurs) and largest."""
    ordered = sorted(lengths)
    ranks = {"median": 50, "p90": 90, "p99": 99}
    return {
        "min": ordered[0],
        **{name: ordered[-(-len(ordered) * percent // 100) - 1] for name, percent in ranks.items()},
        "max": ordered[-1],
    }


def _tags(rows: Rows) -> TagCounts | None:
    """The first list column in numbers; None where the template has none."""
    if not rows.template.list_columns:
        return None
    column = rows.template.list_columns[0]
    counts = Counter(tag for quote in rows.quotes for tag in quote[column])
    return {
        "column": column,
        "distinct": len(counts),
        "once": sum(count == 1 for count in counts.values()),
        "rows_without": sum(not quote[column] for quote in rows.quotes),
        "most_frequent": [[tag, count] for tag, count in counts.most_common(_MOST_FREQUENT)],
    }


def _suspects(rows: Rows, suspected: list[bool]) -> Found:
    places = [place for place, yes in zip(rows.places, suspected, strict=True) if yes]
    return {"rows": len(places), "places": _shown(places)}


def _shown(places: Iterable[str]) -> list[str]:
    return list(islice(places, _PLACES_SHOWN))
