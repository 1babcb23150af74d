"""What an evaluation compares the tuned model's tags with: the most frequent ones, and baselines that read the text.

The baselines (`evaluation/baselines.py`) are fitted to the run's training rows alone and asked for the tags of its
held-out ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from florilegium.evaluation import (
    TagBaseline,
    TagComparison,
    TagRelevance,
    TagScores,
    compare_tags,
    fit_baselines,
    most_frequent_tags,
    rows_relevance,
    tag_scores,
)
from florilegium.evaluation.calibrated_tags import average_precision
from florilegium.evaluation.tag_table import TagTable

Tags = Sequence[Sequence[str]]


@dataclass(frozen=True)
class TagBaselines:
    """`frequent` is the answer that names the most frequent tags to every row; `fitted` the baselines that read the
    text, `named` what each names for the held-out `texts`; `wanted` are those rows' own tags."""

    frequent: list[str]
    fitted: list[TagBaseline]
    named: list[list[list[str]]]
    texts: Sequence[str]
    wanted: Tags
    known: frozenset[str]  # the tags of the training rows
    nearness_RT: np.ndarray  # what tf-idf gives each known tag for each held-out text
    table: TagTable

    @property
    def right_RT(self) -> np.ndarray:
        """Which known tags are a held-out row's own, bool."""
        return self.table.right(self.wanted)

    def scores(self, tags: Tags) -> TagScores | None:
        return tag_scores(tags, self.wanted, self.known)

    def relevance(self, tags: Tags) -> TagRelevance | None:
        """Whether tags fit the held-out texts, as the training rows near them judge."""
        return rows_relevance(self.nearness_RT, self.table, tags)

    def frequent_to_json(self) -> dict[str, object] | None:
        scores = self.scores([self.frequent] * len(self.wanted))
        return {**asdict(scores), "answer": self.frequent} if scores else None

    def own_to_json(self) -> dict[str, object]:
        """What the rows' own tags reach, and how many of them a model cannot know from its training rows."""
        scores = self.scores(self.wanted)
        return {"precision_at_3": scores.precision_at_3_ceiling, "unseen": asdict(scores)["unseen"]} if scores else {}

    def to_json(self) -> dict[str, object]:
        """By key: the scores, the name for people, the settings that leave-one-out chose."""
        found = {}
        for baseline, named in zip(self.fitted, self.named, strict=True):
            scores = self.scores(named)
            name = {"name": baseline.ranker.name, "settings": baseline.settings}
            precision = average_precision(baseline.scores(self.texts), self.right_RT)
            ranked = {"known_tags": {"average_precision": precision and asdict(precision)}}
            found[baseline.ranker.key] = {**(asdict(scores) if scores else {}), **name, **ranked}
        return dict(found)

    def compare(self, tuned: Tags) -> TagComparison | None:
        """The tuned model's tags against the best baseline's."""
        answers: dict[str, tuple[str, Tags]] = {
            baseline.ranker.key: (baseline.ranker.name, named)
            for baseline, named in zip(self.fitted, self.named, strict=True)
        }
        frequent = [self.frequent] * len(self.wanted)
        return compare_tags(tuned, {**answers, "frequent_tags": ("most frequent tags", frequent)}, self.wanted)


def tag_baselines(training: Sequence[str], tags: Tags, held_out: Sequence[str], wanted: Tags) -> TagBaselines:
    """The baselines of training texts with their tags, of which some are there, asked for the tags of held-out texts."""
    fitted = list(fit_baselines(training, tags))
    nearest = fitted[0]
    return TagBaselines(
        most_frequent_tags(tags),
        fitted,
        [one.tags_for(held_out) for one in fitted],
        held_out,
        wanted,
        frozenset(tag for own in tags for tag in own),
        nearest.scores(held_out),
        nearest.ranker.tags,
    )
