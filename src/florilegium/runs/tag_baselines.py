"""What an evaluation compares the tuned model's tags with: the most frequent ones, and baselines that read the text.

The baselines (`evaluation/baselines.py`) are fitted to the run's training rows alone and asked for the tags of its
held-out ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from florilegium.evaluation import (
    TagBaseline,
    TagComparison,
    compare_tags,
    fit_baselines,
    most_frequent_tags,
    tag_scores,
)

Tags = Sequence[Sequence[str]]


@dataclass(frozen=True)
class TagBaselines:
    """`frequent` is the answer that names the most frequent tags to every row; `fitted` the baselines that read the
    text, `named` what each names for the held-out texts; `wanted` are the held-out rows' own tags."""

    frequent: list[str]
    fitted: list[TagBaseline]
    named: list[list[list[str]]]
    wanted: Tags

    def frequent_to_json(self) -> dict[str, object] | None:
        scores = tag_scores([self.frequent] * len(self.wanted), self.wanted)
        return {**asdict(scores), "answer": self.frequent} if scores else None

    def to_json(self) -> dict[str, object]:
        """By key: the scores, the name for people, the settings that leave-one-out chose."""
        found = {}
        for baseline, named in zip(self.fitted, self.named, strict=True):
            scores = tag_scores(named, self.wanted)
            name = {"name": baseline.ranker.name, "settings": baseline.settings}
            found[baseline.ranker.key] = {**(asdict(scores) if scores else {}), **name}
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
    """The baselines of training texts with their tags, asked for the tags of held-out texts."""
    fitted = list(fit_baselines(training, tags))
    return TagBaselines(most_frequent_tags(tags), fitted, [one.tags_for(held_out) for one in fitted], wanted)
