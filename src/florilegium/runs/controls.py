"""The measured part of evaluation.json: the sides, and what each metric is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TypedDict

from florilegium.evaluation import TrainingTexts, copy_metrics, distinct_n
from florilegium.evaluation.metrics import InstrumentMetrics


class Controls(TypedDict):
    """What each metric is compared with, and how well the search for copies finds what was planted. `retrieved` stands
    for a generator that only looks up: the training row nearest to each held-out one; `training` says which share of
    the training rows has an item in every list, where that is not all."""

    frequent_tags: dict[str, object] | None
    baselines: dict[str, object]
    own_tags: dict[str, object] | None
    training: dict[str, object]
    held_out: dict[str, object]
    retrieved: dict[str, object]
    copies_instrument: InstrumentMetrics
    variety_words: int


class Compared(TypedDict):
    """A side is what `SideReport.to_json` makes, `baseline_comparison` a TagComparison."""

    tuned: dict[str, object]
    base: dict[str, object] | None
    baseline_comparison: dict[str, object] | None
    controls: Controls


def texts_to_json(index: TrainingTexts, texts: Sequence[str], budget: int) -> dict[str, object]:
    """Variety and copies of texts that no model wrote."""
    copies = copy_metrics(index, texts)
    return {"variety": variety(texts, budget), "copies": copies and asdict(copies)}


def variety(texts: Sequence[str], budget: int) -> dict[str, float | None]:
    """distinct-n in the first `budget` words."""
    return {f"distinct_{n}": distinct_n(texts, n, budget) for n in (1, 2, 3)}
