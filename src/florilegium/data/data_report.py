"""What data.json holds and `inspect` shows: its keys, once. Plain values, ready for JSON.

`statistics.py` writes the counts, `quality.py` the findings; runs of earlier versions lack what came later."""

from __future__ import annotations

from typing import TypedDict


class Found(TypedDict):
    """How many rows have it, and where the first ten are."""

    rows: int
    places: list[str]


class Outliers(Found):
    """Rows beyond `limit`; None where there are too few to say."""

    limit: int | None


class ShownRow(TypedDict):
    place: str
    text: str


class NearDuplicates(TypedDict):
    pairs: int
    clusters: int
    rows: int
    largest: int
    shown: list[list[ShownRow]]


class Mended(TypedDict):
    before: str
    after: str


class Repair(TypedDict):
    """Broken encoding: rows that were mended, that `--fix-encoding` would mend, and that stay broken then."""

    mended: int
    can_be_mended: int
    still_broken_then: int
    example: Mended | None


class TagFinding(TypedDict, total=False):
    """Suspicious tags: `tags` of them, in `rows`. One word in several spellings has no rows, several tags in one have
    the separator that glues them."""

    rows: int
    places: list[str]
    tags: int
    examples: list[str] | list[list[str]]
    separator: str | None


AuthorFindings = dict[str, int | list[tuple[str, int]] | Found]  # counts, the most frequent names, and a Found a sign


class Findings(TypedDict):
    """What in the rows would teach the wrong thing; None where there are no tags, or no authors."""

    near_duplicates: NearDuplicates
    repair: Repair
    dirt: dict[str, Found]
    suspicious_tags: dict[str, TagFinding] | None
    authors: AuthorFindings | None
    long_outliers: Outliers
    tag_outliers: Outliers | None
    no_text: Found


class Skipped(TypedDict):
    rows: int
    causes: dict[str, int]
    places: list[str]


class SkippedRow(TypedDict):
    place: str
    cause: str
    fix: str


class TagCounts(TypedDict):
    column: str
    distinct: int
    once: int
    rows_without: int
    most_frequent: list[list[str | int]]


class Statistics(TypedDict):
    """Counts, lengths, tags and suspects of the rows."""

    source: str
    digest: str
    template: str
    columns: list[str]
    list_columns: list[str]
    num_rows: int
    num_read: int
    duplicates: int
    skipped: Skipped
    skipped_rows: list[SkippedRow]
    characters: dict[str, int]
    words: dict[str, int]
    tags: TagCounts | None
    broken_encoding: Found
    very_short: Found


class DataReport(Statistics):
    """`leaks`: near-duplicate pairs across training and held-out rows, by the way of splitting."""

    notes: list[str]
    training_rows: int
    held_out_rows: int
    validation_rows: int
    set_aside_rows: int
    rows_of_one_mould: int
    split_by: str
    leaks: dict[str, int]
    findings: Findings
