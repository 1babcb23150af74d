"""What is measured of one side, the tuned model or its base, and how evaluation.json has it."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from florilegium.evaluation import CopyMetrics, FormMetrics, RowParts, TagRelevance, TagScores, loss_metrics
from florilegium.runs.tags_first import TagsFirst


@dataclass(frozen=True)
class Measured:
    """What is measured of one side alone: losses of each row, form, the tags that it wrote for held-out quotes (None where the
    template does not end in a list), and its unconditional samples."""

    rows: list[RowParts]
    form: FormMetrics
    tags: list[list[str]] | None
    texts: list[str]
    tags_first: TagsFirst | None = None


@dataclass(frozen=True)
class SideReport:
    """One side, with what needs a measure that both share."""

    measured: Measured
    written_tags: TagScores | None
    variety: dict[str, float | None]
    copies: CopyMetrics | None
    relevance: TagRelevance | None
    relevance_by_rows: TagRelevance | None
    by_row: dict[str, object]

    def to_json(self) -> dict[str, object]:
        return {
            **loss_metrics(self.measured.rows).to_json(),
            "written_tags": self.written_tags and asdict(self.written_tags),
            "form": asdict(self.measured.form),
            "variety": self.variety,
            "copies": self.copies and asdict(self.copies),
            "relevance": self.relevance and self.relevance.to_json(),
            "relevance_by_rows": self.relevance_by_rows and self.relevance_by_rows.to_json(),
            "by_row": self.by_row,
            **({"tags_first": self.measured.tags_first.to_json()} if self.measured.tags_first else {}),
        }
