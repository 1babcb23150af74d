"""Which rows chose the step whose adapter is kept, and how much too good that makes a figure on the same rows.

With validation rows (`data/split.py`) the rows that are reported chose nothing. Without, as in small data and in runs of
before, the lowest of K held-out losses is both chosen and reported. Each is the true loss and an error; the lowest of K
has on average an error of at most `sigma * sqrt(2 ln K)` below (Gaussian errors of deviation sigma, however they hang
together), with sigma the standard error of the loss over rows. The errors are nearly the same in all K, so what is
lost is usually far less: the other number is how far the kept step lies below the last one, which nobody chose."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from florilegium.errors import counted
from florilegium.evaluation.table import lookup

Z95 = 1.959964


@dataclass(frozen=True)
class Selection:
    """`evaluations` that could be chosen from; the rows that chose, none where those did that are reported. Then
    `lowered_by`: nats between the last evaluation and the chosen one; `bound`: the expected bias is not above it."""

    evaluations: int
    validation_rows: int
    reported_rows: int
    lowered_by: float = 0.0
    bound: float = 0.0

    def __str__(self) -> str:
        chosen = f"the best of {counted(self.evaluations, 'evaluation')}"
        if self.validation_rows:
            by = f"by {counted(self.validation_rows, 'validation row')}"
            reported = f"the {counted(self.reported_rows, 'test row')} reported here"
            return f"{chosen} was chosen {by}; {reported} played no part in it"
        return (
            f"{chosen} was chosen by the rows that are reported: their loss is {self.lowered_by:.3f} below the last step's,"
            f" and on average at most {self.bound:.3f} too low"
        )

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "sentence": str(self)}


def selection_of(
    metrics: Sequence[Mapping[str, object]], validation_rows: int, reported_rows: int, measured: object
) -> Selection:
    """Of a run's lines in metrics.jsonl, and the loss over all tokens as evaluation.json has it."""
    losses = [loss for row in metrics if isinstance(loss := row.get("eval_loss"), float)]
    if validation_rows or not losses:
        return Selection(len(losses), validation_rows, reported_rows)
    low, high = (lookup(measured, key) for key in ("low", "high"))
    error = (high - low) / (2 * Z95) if isinstance(low, float) and isinstance(high, float) else 0.0
    bound = error * math.sqrt(2 * math.log(len(losses)))
    return Selection(len(losses), 0, reported_rows, losses[-1] - min(losses), bound)
