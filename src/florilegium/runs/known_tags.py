"""What the tuned model makes of the known tags, those of its training rows (`evaluate --known-tags`): the tags that it
writes when it may write no other, how well it ranks all of them, and the tags that pass a threshold.

The ranking is by how likely a tag is somewhere in a row's list (`generation/tag_scores.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from florilegium.data import Quote
from florilegium.evaluation.calibrated_tags import average_precision, best_threshold, cross_fitted, named, passing
from florilegium.generation.known_tags import check_ends_in_tags
from florilegium.generation.tag_scores import KnownTags, known_tags_of, tag_scorer
from florilegium.generation.tuned import Tuned
from florilegium.runs.tag_baselines import TagBaselines


@dataclass(frozen=True)
class RankedTags:
    """What the model wrote of the known tags for held-out rows, and for validation rows where there are some."""

    held_out: list[KnownTags]
    validation: list[KnownTags]
    validation_tags: list[list[str]]


def rank_known_tags(
    tuned: Tuned, names: Sequence[str], held_out: Sequence[Quote], validation: Sequence[Quote]
) -> RankedTags:
    """Raises UsageError for a template that does not end in a list of tags."""
    check_ends_in_tags(tuned)
    column = tuned.template.columns[-1]

    def ranked(quotes: Sequence[Quote]) -> list[KnownTags]:
        return [known_tags_of(scorer, tuned.loaded, tuned.template, quote, names) for quote in quotes]

    with tag_scorer(tuned.loaded) as scorer:
        return RankedTags(ranked(held_out), ranked(validation), [list(quote[column]) for quote in validation])


def known_tags_to_json(ranked: RankedTags, baselines: TagBaselines) -> dict[str, object]:
    """`written`, `average_precision`, `threshold` and the scores of tags that pass it, `at_threshold`."""
    names = baselines.table.names
    scores_RT = np.stack([one.likely_T for one in ranked.held_out])
    right_RT = baselines.right_RT
    if ranked.validation:
        chosen_RT = np.stack([one.likely_T for one in ranked.validation])
        threshold = best_threshold(chosen_RT, baselines.table.right(ranked.validation_tags))
        named_RT, by = passing(scores_RT, threshold), "validation rows"
    else:
        threshold = best_threshold(scores_RT, right_RT)
        named_RT, by = cross_fitted(scores_RT, right_RT), "other held-out rows, five folds"
    written = baselines.scores([one.written for one in ranked.held_out])
    passed = baselines.scores(named(names, scores_RT, named_RT))
    precision = average_precision(scores_RT, right_RT)
    return {
        "tags": len(names),
        "written": written and asdict(written),
        "average_precision": precision and asdict(precision),
        "threshold": threshold,
        "threshold_chosen_on": by,
        "at_threshold": passed and asdict(passed),
    }
