"""What a fine-tuned model learned, what it forgot, and whether it repeats its training rows.

In reading order: `confidence` (how far a metric can be trusted), `losses` (held-out rows, general text), `tag_metrics`
and `text_metrics` (tags, variety, repetition), `copies` (how much was copied, and from where), `relevance` (do the tags
fit the quote), `table` (all of it for people)."""

from florilegium.data.novelty import NoveltyIndex, words
from florilegium.evaluation.confidence import mean, share
from florilegium.evaluation.copies import TrainingTexts, copy_metrics, instrument_check
from florilegium.evaluation.losses import GENERAL, forgetting, general_parts, loss_metrics, read_general, row_parts
from florilegium.evaluation.metrics import (
    CopyMetrics,
    Forgetting,
    FormMetrics,
    InstrumentCheck,
    RowLosses,
    TagRelevance,
    TagScores,
)
from florilegium.evaluation.relevance import tag_relevance
from florilegium.evaluation.tag_metrics import most_frequent_tags, tag_f1, tag_scores
from florilegium.evaluation.text_metrics import distinct_n, is_repetitive

__all__ = [
    "GENERAL",
    "CopyMetrics",
    "Forgetting",
    "FormMetrics",
    "InstrumentCheck",
    "NoveltyIndex",
    "RowLosses",
    "TagRelevance",
    "TagScores",
    "TrainingTexts",
    "copy_metrics",
    "distinct_n",
    "forgetting",
    "general_parts",
    "instrument_check",
    "is_repetitive",
    "loss_metrics",
    "mean",
    "most_frequent_tags",
    "read_general",
    "row_parts",
    "share",
    "tag_f1",
    "tag_relevance",
    "tag_scores",
    "words",
]
