"""What a fine-tuned model learned, what it forgot, and whether it repeats its training rows.

In reading order: `confidence` (how far a metric can be trusted), `token_parts` and `losses` (of held-out rows, words and
constants apart), `general` and `cloze` (general text and its next words, before and after), `tag_metrics` and
`text_metrics` (tags, variety, repetition), `baselines` (what names tags without a model: `text_index`, `tag_table`,
`nearest_rows`, `naive_bayes`) and `tag_comparison` (which is better), `copies` (how much was copied, and from where),
`relevance` and `rows_relevance` (do the tags fit the quote, as the base and as training rows judge), `paired` (two runs
on the same rows), `between_runs` (runs that differ by their seed), `table` (all of it for people)."""

from florilegium.data.novelty import NoveltyIndex, words
from florilegium.evaluation.baselines import TagBaseline, fit_baselines
from florilegium.evaluation.between_runs import spread_rows, spreads
from florilegium.evaluation.cloze import cloze_items, cloze_metrics, right_choices
from florilegium.evaluation.confidence import mean, share
from florilegium.evaluation.copies import TrainingTexts, copy_metrics, instrument_check
from florilegium.evaluation.general import (
    FIRST_WINDOWS,
    GENERAL,
    forgetting,
    general_parts,
    read_general,
    windows_to_see,
)
from florilegium.evaluation.losses import RowParts, loss_metrics, row_parts
from florilegium.evaluation.metrics import (
    Cloze,
    CopyMetrics,
    Forgetting,
    FormMetrics,
    InstrumentCheck,
    TagComparison,
    TagRelevance,
    TagScores,
)
from florilegium.evaluation.nearest_rows import nearest_texts
from florilegium.evaluation.paired import PairedDifference, paired_differences, sums_of_rows
from florilegium.evaluation.relevance import tag_relevance
from florilegium.evaluation.rows_relevance import rows_relevance
from florilegium.evaluation.tag_comparison import compare_tags
from florilegium.evaluation.tag_metrics import most_frequent_tags, tag_f1, tag_scores
from florilegium.evaluation.text_metrics import distinct_n, is_repetitive

__all__ = [
    "FIRST_WINDOWS",
    "GENERAL",
    "Cloze",
    "CopyMetrics",
    "Forgetting",
    "FormMetrics",
    "InstrumentCheck",
    "NoveltyIndex",
    "PairedDifference",
    "RowParts",
    "TagBaseline",
    "TagComparison",
    "TagRelevance",
    "TagScores",
    "TrainingTexts",
    "cloze_items",
    "cloze_metrics",
    "compare_tags",
    "copy_metrics",
    "distinct_n",
    "fit_baselines",
    "forgetting",
    "general_parts",
    "instrument_check",
    "is_repetitive",
    "loss_metrics",
    "mean",
    "most_frequent_tags",
    "nearest_texts",
    "paired_differences",
    "read_general",
    "right_choices",
    "row_parts",
    "rows_relevance",
    "share",
    "spread_rows",
    "spreads",
    "sums_of_rows",
    "tag_f1",
    "tag_relevance",
    "tag_scores",
    "windows_to_see",
    "words",
]
