"""The evaluation in five lines, for who reads only those: the loss of the words, the tags beside the best that names them
without a model, the form, copies, and what was forgotten. All figures are the table's."""

from __future__ import annotations

from collections.abc import Mapping

from florilegium.errors import counted
from florilegium.evaluation.table import SHARE, lookup, written

_BASELINES = (
    ("controls.baselines.naive_bayes", "naive Bayes"),
    ("controls.baselines.nearest_rows", "nearest rows"),
    ("controls.frequent_tags", "most frequent tags"),
)
NO_TAGS = "no metrics: the template has no list of tags after the text, or no held-out row has tags"


FEW_ROWS = 20  # held-out rows below which an F1 of 0 or 1 is a matter of luck


def few_rows(report: Mapping[str, object]) -> str:
    """That the figures are of too few held-out rows to tell; empty where there are enough."""
    rows = report.get("held_out_rows")
    if not isinstance(rows, int) or not 0 < rows < FEW_ROWS:
        return ""
    return f"{counted(rows, 'held-out row')}: too few to tell"


def headline(report: Mapping[str, object]) -> list[tuple[str, str]]:
    """Pairs of what is measured and what came out. The base stands beside where it was measured."""
    lines = [
        ("Words", f"held-out loss per token {_both(report, 'parts.words.loss', '.3f')}"),
        ("Tags", _tags(report)),
        ("Form", f"{_both(report, 'form.format_rate', SHARE)} of the samples well-formed{_of_the_rows(report)}"),
        ("Copies", f"{_both(report, 'copies.copied', SHARE)} of the samples copy a training row"),
    ]
    if change := written(lookup(report, "forgetting.change"), "+.3f", short=True):
        lines.append(("General text", f"loss per token {change} (above 0: forgotten)"))
    return lines


def _both(report: Mapping[str, object], path: str, style: str) -> str:
    tuned, base = (written(lookup(report.get(side), path), style, short=True) for side in ("tuned", "base"))
    return f"{tuned} (base {base.split(' ')[0]})" if base else tuned


def _of_the_rows(report: Mapping[str, object]) -> str:
    """What there is to reach, where rows without tags are among those that were trained."""
    share = written(lookup(report, "controls.training.form.format_rate"), SHARE)
    return f"; {share} of the training rows are" if share else ""


def _tags(report: Mapping[str, object]) -> str:
    if not written(lookup(report, "tuned.written_tags.micro_f1"), ".3f"):
        return NO_TAGS
    found = [(lookup(report, f"{where}.micro_f1"), name) for where, name in _BASELINES]
    values = [(float(v["value"]) if isinstance(v, Mapping) else v, name) for v, name in found]
    best = max(((v, name) for v, name in values if isinstance(v, (int, float))), default=None)
    beside = f"; best without a model: {best[0]:.3f}, {best[1]}" if best else ""
    few = few_rows(report)
    return f"micro F1 {_both(report, 'written_tags.micro_f1', '.3f')}{beside}{few and '; of '}{few}"
