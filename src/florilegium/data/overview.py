"""What is in the rows, in numbers, before anybody trains on them.

`describe` is what `florilegium inspect` prints and `--json` hands on. It counts; it changes nothing and drops nothing.

Broken encoding ("mojibake") is UTF-8 that was once read as Windows-1252 and saved like that, or U+FFFD, where a byte was lost
for good. A row is suspected when its text or a tag holds one of

    U+FFFD                      a lost byte
    `â€` or `ðŸ`                 how every curly quote and dash, and every emoji, begins
    `Ã` or `Â`, one more        a Latin letter or sign: `Ã©` is é. "One more" is a character that Windows-1252 has at 0x80 to 0xBF
    two such in a row           `Ø£Ø­` is Arabic, `Ð¿Ñ€` Russian, `æ—¥æœ¬` Chinese: any two- or three-byte characters

One alone is not enough for other letters: `É”` and `Ñ»` are how a French or a Spanish quotation ends.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from .quote import Quote, join_items
from .read import Rows

_MOST_FREQUENT = 10
_PLACES_SHOWN = 10
_FEWEST_LETTERS = 3


def _windows_1252(first: int, last: int) -> str:
    """A regular expression's set of what the bytes `first` to `last` become; five of them become nothing and stay."""
    return "[" + re.escape("".join(bytes([b]).decode("cp1252", "ignore") or chr(b) for b in range(first, last + 1))) + "]"


_MORE = _windows_1252(0x80, 0xBF)
_PAIR = _windows_1252(0xC2, 0xDF) + _MORE
_TRIPLE = _windows_1252(0xE0, 0xEF) + _MORE + _MORE
_BROKEN = re.compile(f"\ufffd|â€|ðŸ|[ÃÂ]{_MORE}|{_PAIR}{_PAIR}|{_TRIPLE}{_TRIPLE}")


def describe(rows: Rows) -> dict[str, Any]:
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
        "characters": _lengths([len(text) for text in main]),
        "words": _lengths([len(text.split()) for text in main]),
        "tags": _tags(rows),
        "broken_encoding": _suspects(rows, [is_broken(quote) for quote in rows.quotes]),
        "very_short": _suspects(rows, [sum(map(str.isalpha, text)) < _FEWEST_LETTERS for text in main]),
    }


def is_broken(quote: Quote) -> bool:
    """Whether a column of the quote seems to have been through a wrong encoding."""
    return any(_BROKEN.search(join_items(value)) for value in quote.values())


def _lengths(lengths: Sequence[int]) -> dict[str, int]:
    """Smallest, median, 90th and 99th percentile (nearest rank: always a length that occurs) and largest."""
    ordered = sorted(lengths)
    ranks = {"median": 50, "p90": 90, "p99": 99}
    return {
        "min": ordered[0],
        **{name: ordered[-(-len(ordered) * percent // 100) - 1] for name, percent in ranks.items()},
        "max": ordered[-1],
    }


def _tags(rows: Rows) -> dict[str, Any] | None:
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


def _suspects(rows: Rows, suspected: list[bool]) -> dict[str, Any]:
    places = [place for place, yes in zip(rows.places, suspected, strict=True) if yes]
    return {"rows": len(places), "places": _shown(places)}


def _shown(places: Any) -> list[str]:
    return list(places)[:_PLACES_SHOWN]
