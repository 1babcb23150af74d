"""What a tuned model learned, what it forgot, and whether it repeats its training rows.

In reading order: `intervals` (how far a figure can be trusted), `losses` (held-out rows, general text), `novelty` (new
or a copy, while generating), `figures` (tags, form, stopping, loops), `copies` (how much was copied, and from where),
`relevance` (do the tags fit the quote), `table` (all of it for people)."""

from florilegium.data.novelty import NoveltyIndex, words
from florilegium.evaluation.confidence import mean, share
from florilegium.evaluation.copies import TrainingTexts, copy_figures, instrument_check
from florilegium.evaluation.losses import GENERAL, forgetting, general_parts, loss_figures, read_general, row_parts
from florilegium.evaluation.relevance import tag_relevance
from florilegium.evaluation.tag_metrics import distinct_n, loops, most_frequent_tags, tag_f1, tag_figures

__all__ = [
    "GENERAL",
    "NoveltyIndex",
    "TrainingTexts",
    "copy_figures",
    "distinct_n",
    "forgetting",
    "general_parts",
    "instrument_check",
    "loops",
    "loss_figures",
    "mean",
    "most_frequent_tags",
    "read_general",
    "row_parts",
    "share",
    "tag_f1",
    "tag_figures",
    "tag_relevance",
    "words",
]
