"""A model that was trained tags first, measured that way: what it loses on a quote whose tags it knows, and the quotes that
it writes when it is asked by the tags of held-out rows.

    love, hope :<- Be kind to the rain.       asked with `love, hope :<-`
    Be kind to the rain. ->: hope, rain       and the tags that the same model gives what it wrote

The base model is asked the same, and knows nothing of the sign."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from florilegium.config import SamplingSettings
from florilegium.data import Quote, Template
from florilegium.errors import DataError
from florilegium.evaluation import TagScores, loss_metrics, row_parts, share, tag_scores
from florilegium.evaluation.metrics import LossMetrics, Metric
from florilegium.generation import Generated, generate_texts
from florilegium.generation.tuned import Tuned
from florilegium.tokens import label_prompt

MOST_ASKED, TAG_TOKENS = 100, 40


@dataclass(frozen=True)
class TagsFirst:
    """Loss of held-out quotes given their tags; shares of the quotes asked for that have the form and end by themselves;
    how the tags the model gives them agree with those asked for (None where it was trained tags first only)."""

    loss: LossMetrics
    format_rate: Metric | None
    stop_rate: Metric | None
    own_tags: TagScores | None

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def measure_tags_first(
    tuned: Tuned, held_out: Sequence[Quote], places: Sequence[str], max_length: int, settings: SamplingSettings
) -> TagsFirst | None:
    """None for a model that was trained quote first, and where no held-out row has tags."""
    way = tuned.template.asked_by_tags
    if way is None:
        return None
    column = way.columns[0]
    tagged = [(quote, place) for quote, place in zip(held_out, places, strict=True) if quote[column]]
    if not tagged:
        return None
    quotes = [quote for quote, _ in tagged]
    parts = row_parts(tuned.loaded, way, quotes, max_length, [place for _, place in tagged])
    asked = quotes[:MOST_ASKED]
    rows = tuned.complete([label_prompt(way, quote) for quote in asked], settings)
    return TagsFirst(
        loss_metrics(parts).tags,  # the last part of a row, which is the quote here
        share([row.quote is not None for row in rows]),
        share([row.finished for row in rows]),
        _own_tags(tuned, rows, [list(quote[column]) for quote in asked]) if tuned.template.tags_first else None,
    )


def _own_tags(tuned: Tuned, rows: Sequence[Generated], wanted: Sequence[list[str]]) -> TagScores | None:
    """The tags that the model gives what it wrote, against those that it was asked for."""
    template = tuned.template
    pairs = [(prompt, tags) for row, tags in zip(rows, wanted, strict=True) if (prompt := _prompt(template, row))]
    given = generate_texts(
        tuned.loaded, template, [p for p, _ in pairs], SamplingSettings(max_new_tokens=TAG_TOKENS, temperature=0.0)
    )
    labels = [list((row.quote or {}).get(template.columns[-1], [])) for row in given]
    return tag_scores(labels, [tags for _, tags in pairs])


def _prompt(template: Template, row: Generated) -> str:
    try:
        return label_prompt(template, row.quote) if row.quote else ""
    except DataError:  # it wrote a separator of its own
        return ""
