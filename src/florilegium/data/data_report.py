"""What data.json holds and `inspect` shows: its keys, once.

`statistics.py` writes the counts, `quality.py` the findings; runs of earlier versions lack what came later, which has a
default here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

from florilegium.storage.json_record import JsonRecord, as_object, plain


@dataclass(frozen=True)
class Found(JsonRecord):
    """How many rows have it, and where the first ten are."""

    rows: int
    places: list[str]


@dataclass(frozen=True)
class Outliers(Found):
    """Rows beyond `limit`; None where there are too few to say."""

    limit: int | None


@dataclass(frozen=True)
class ShownRow(JsonRecord):
    place: str
    text: str


@dataclass(frozen=True)
class NearDuplicates(JsonRecord):
    pairs: int
    clusters: int
    rows: int
    largest: int
    shown: list[list[ShownRow]]


@dataclass(frozen=True)
class Mended(JsonRecord):
    before: str
    after: str


@dataclass(frozen=True)
class Repair(JsonRecord):
    """Broken encoding: rows that were mended, that `--fix-encoding` would mend, and that stay broken then."""

    mended: int
    can_be_mended: int
    still_broken_then: int
    example: Mended | None


@dataclass(frozen=True)
class SuspiciousTags(Found):
    """Rows that carry one of `tags` suspicious tags, the most frequent of which are `examples`."""

    tags: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class GluedTags(Found):
    """Rows with a tag in which the separator glues several; None where none does."""

    separator: str | None
    examples: list[str]


@dataclass(frozen=True)
class Spellings(JsonRecord):
    """`tags` words that tags spell in several ways."""

    tags: int
    examples: list[list[str]]


@dataclass(frozen=True)
class TagFindings(JsonRecord):
    """Suspicious tags: a finding a sign, as a key of its name before the others."""

    signs: dict[str, SuspiciousTags]
    several_in_one: GluedTags | None = None
    several_spellings: Spellings = Spellings(0, [])

    def to_json(self) -> dict[str, object]:
        found: dict[str, object] = {name: sign.to_json() for name, sign in self.signs.items()}
        if self.several_in_one:
            found["several_in_one"] = self.several_in_one.to_json()
        found["several_spellings"] = self.several_spellings.to_json()
        return found

    @classmethod
    def from_json(cls, found: object) -> Self:
        signs, values = dict(as_object(found)), dict[str, object]()
        for name in ("several_in_one", "several_spellings"):
            if name in signs:
                values[name] = signs.pop(name)
        values["signs"] = signs
        return super().from_json(values)


@dataclass(frozen=True)
class AuthorFindings(JsonRecord):
    """Names of authors, and a finding a sign of junk in them, as a key of its name behind the counts."""

    signs: dict[str, Found]
    distinct: int = 0
    rows_without: int = 0
    most_frequent: list[tuple[str, int]] = field(default_factory=list)

    def to_json(self) -> dict[str, object]:
        counts = {"distinct": self.distinct, "rows_without": self.rows_without}
        signs = {name: sign.to_json() for name, sign in self.signs.items()}
        return {**counts, "most_frequent": plain(self.most_frequent), **signs}

    @classmethod
    def from_json(cls, found: object) -> Self:
        values = as_object(found)
        return super().from_json({**values, "signs": {k: v for k, v in values.items() if isinstance(v, dict)}})


@dataclass(frozen=True, kw_only=True)
class Findings(JsonRecord):
    """What in the rows would teach the wrong thing; None where there are no tags, or no authors."""

    near_duplicates: NearDuplicates
    repair: Repair
    dirt: dict[str, Found] = field(default_factory=dict)
    suspicious_tags: TagFindings | None
    authors: AuthorFindings | None
    long_outliers: Outliers
    tag_outliers: Outliers | None
    no_text: Found


@dataclass(frozen=True)
class Skipped(JsonRecord):
    rows: int
    causes: dict[str, int]
    places: list[str]


@dataclass(frozen=True)
class SkippedRow(JsonRecord):
    place: str
    cause: str
    fix: str


@dataclass(frozen=True)
class TagCounts(JsonRecord):
    column: str
    distinct: int
    once: int
    rows_without: int
    most_frequent: list[tuple[str, int]]


@dataclass(frozen=True)
class Lengths(JsonRecord):
    """Smallest, median, 90th and 99th percentile, largest."""

    min: int
    median: int
    p90: int
    p99: int
    max: int


@dataclass(frozen=True, kw_only=True)
class Statistics(JsonRecord):
    """Counts, lengths, tags and suspects of the rows; `notes` on how they were read."""

    notes: list[str] = field(default_factory=list)
    source: str
    digest: str
    template: str
    columns: list[str]
    list_columns: list[str]
    num_rows: int
    num_read: int
    duplicates: int
    skipped: Skipped
    skipped_rows: list[SkippedRow] = field(default_factory=list)
    characters: Lengths
    words: Lengths
    tags: TagCounts | None
    broken_encoding: Found
    very_short: Found


@dataclass(frozen=True, kw_only=True)
class DataReport(Statistics):
    """`leaks`: near-duplicate pairs across training and held-out rows, by the way of splitting."""

    training_rows: int
    held_out_rows: int
    validation_rows: int = 0
    set_aside_rows: int
    rows_of_one_mould: int = 0
    split_by: str
    leaks: dict[str, int]
    findings: Findings
