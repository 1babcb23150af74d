"""The metrics of an evaluation, as evaluation.json has them: what each function of this room returns.

A metric that can be resampled has a 95% interval; None stands where there was nothing to measure. `dataclasses.asdict`
makes JSON of each; where JSON has another shape, `to_json` does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TypedDict


@dataclass(frozen=True)
class Metric:
    """A value with its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class LossMetrics:
    """Loss in nats a token, perplexity, and bits a byte of text, over `tokens` predicted tokens."""

    loss: Metric | None
    perplexity: Metric | None
    bits_per_byte: Metric | None
    tokens: int


@dataclass(frozen=True)
class RowLosses:
    """The losses of whole rows and of their halves, constants included: the separator with the quote, commas and
    end-of-text with the tags; and `parts`: `words` alone, and each part of `token_parts.py`."""

    whole: LossMetrics
    quote: LossMetrics
    tags: LossMetrics
    parts: Mapping[str, LossMetrics]

    def to_json(self) -> dict[str, object]:
        halves = {"quote": asdict(self.quote), "tags": asdict(self.tags)}
        return {**asdict(self.whole), **halves, "parts": {name: asdict(part) for name, part in self.parts.items()}}


@dataclass(frozen=True)
class Cloze:
    """Shares of `items` in which the next word was chosen rightly before and after tuning, and the difference; `chance`
    is that of a blind choice."""

    before: Metric | None
    after: Metric | None
    change: Metric | None
    items: int
    chance: float


@dataclass(frozen=True)
class Forgetting:
    """Losses on general text before and after tuning, and what the loss rose by (negative: fell), paired window by
    window. `sees`: half the width of its interval, the smallest change that it tells from none; `needed_tokens`: of such
    text, to see GOAL nats."""

    before: LossMetrics
    after: LossMetrics
    change: Metric | None
    windows: int
    sees: float | None
    needed_tokens: int | None
    sentence: str
    cloze: Cloze | None = None


@dataclass(frozen=True)
class TagScores:
    """How the tags that a model wrote agree with the rows' own, over `rows` rows. `precision_at_3_ceiling` is what the
    rows' own tags reach: many have fewer than three. `repeated` is the share of rows that write a tag twice; `unseen` of
    the tags written, and `wanted_unseen` of the rows' own, those that no training row has."""

    micro_f1: Metric | None
    macro_f1: Metric | None
    precision_at_1: Metric | None
    precision_at_3: Metric | None
    tags_a_row: Metric | None
    rows: int
    precision_at_3_ceiling: float
    repeated: Metric | None
    unseen: Metric | None
    wanted_unseen: Metric | None


@dataclass(frozen=True)
class TagComparison:
    """The tuned model's tags less those of the best baseline, paired row by row, and that in a sentence. `best` is the
    baseline with the highest micro F1 on these rows, as evaluation.json calls it."""

    best: str
    micro_f1: Metric | None
    precision_at_1: Metric | None
    precision_at_3: Metric | None
    sentence: str


@dataclass(frozen=True)
class TagMatch:
    """How much more likely tags are beside their own quote than beside another: in nats a token, and how often."""

    lift: Metric | None
    wins: Metric | None


@dataclass(frozen=True)
class TagRelevance:
    """The match of the tags as they stand, and of the same tags dealt out anew (the control)."""

    match: TagMatch
    shuffled: TagMatch
    rows: int

    def to_json(self) -> dict[str, object]:
        return {**asdict(self.match), "shuffled": asdict(self.shuffled), "rows": self.rows}


@dataclass(frozen=True)
class ClosestText:
    """A text, and the training row that holds most of it."""

    text: str
    nearest: str | None
    longest_run: int
    containment: float


@dataclass(frozen=True)
class CopyMetrics:
    """How much of the texts stands in the training rows, and the three that share the longest runs with one."""

    copied: Metric | None
    longest_run: Metric | None
    longest_run_max: int
    containment: Metric | None
    closest: list[ClosestText]


class InstrumentMetrics(TypedDict):
    """An `InstrumentCheck` as JSON."""

    planted: int
    planted_found: float | None
    shuffled: int
    shuffled_found: float | None


@dataclass(frozen=True)
class InstrumentCheck:
    """What the index of copies says of training rows (all must be found) and of shuffled ones (none may be)."""

    planted: int
    planted_found: float | None
    shuffled: int
    shuffled_found: float | None

    def to_json(self) -> InstrumentMetrics:
        return {
            "planted": self.planted,
            "planted_found": self.planted_found,
            "shuffled": self.shuffled,
            "shuffled_found": self.shuffled_found,
        }


@dataclass(frozen=True)
class FormMetrics:
    """Shares of unconditional samples that parse, end by themselves and repeat themselves; their length in words."""

    format_rate: Metric | None
    stop_rate: Metric | None
    loop_rate: Metric | None
    words: Metric | None
