"""Two runs side by side: what was set differently, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass

from florilegium.evaluation.table import LINES, lookup, written
from florilegium.report.page import charts, render
from florilegium.report.page_lists import duration, gibibytes, number
from florilegium.report.run_reader import RunRecord

NOT_COMPARED = ("output", "force")


@dataclass(frozen=True)
class Comparison:
    """`settings`: name to [a's, b's] where they differ; `metrics`: name to [a's, b's], each a metric as `evaluate`
    writes it, a number or None; `same_rows`: whether both were trained on the same rows (else their losses cannot be
    compared)."""

    runs: list[str]
    same_rows: bool
    settings: dict[str, list[object]]
    metrics: dict[str, list[object]]

    def to_json(self) -> dict[str, object]:
        return {
            "runs": self.runs,
            "same_rows": self.same_rows,
            "settings": self.settings,
            "figures": self.metrics,
        }


def compare_runs(a: RunRecord, b: RunRecord) -> Comparison:
    """What `report A B` shows."""
    keys = [
        key for key in {**a.config, **b.config} if key not in NOT_COMPARED and a.config.get(key) != b.config.get(key)
    ]
    metrics: dict[str, list[object]] = {
        key: [run.manifest.get(key) for run in (a, b)]
        for key in (
            "eval_loss_before",
            "eval_loss",
            "steps",
            "elapsed_seconds",
            "tokens_per_second",
            "peak_memory_bytes",
        )
    }
    for line in (line for lines in LINES.values() for line in lines):
        pair = [lookup(run.evaluation, f"tuned.{line.path}") for run in (a, b)]
        if any(value is not None for value in pair):
            metrics[line.path] = pair
    metrics["forgetting"] = [lookup(run.evaluation, "forgetting.change") for run in (a, b)]
    digests = [lookup(run.manifest, "data.digest") for run in (a, b)]
    return Comparison(
        [str(a.directory), str(b.directory)],
        digests[0] is not None and digests[0] == digests[1],
        {key: [a.config.get(key), b.config.get(key)] for key in keys},
        {key: pair for key, pair in metrics.items() if any(value is not None for value in pair)},
    )


def metric_rows(comparison: Comparison, short: bool = False) -> list[tuple[str, str, str]]:
    """(name, a's, b's) of each metric, as text."""
    lines = {line.path: line for group in LINES.values() for line in group}
    rows = []
    for key, pair in comparison.metrics.items():
        line = lines.get(key)
        name, style = (
            (line.name, line.style) if line else (key.replace("_", " "), "+.3f" if key == "forgetting" else ".3f")
        )
        rows.append((name, _value(key, pair[0], style, short), _value(key, pair[1], style, short)))
    return rows


def _value(key: str, value: object, style: str, short: bool) -> str:
    if key == "peak_memory_bytes":
        return gibibytes(value)
    if key == "elapsed_seconds":
        return duration(value)
    if key in ("steps", "tokens_per_second"):
        return number(value, ",.0f")
    return written(value, style, short)


def comparison_page(a: RunRecord, b: RunRecord) -> str:
    """The comparison as a page of the same kind as report.html."""
    comparison = compare_runs(a, b)
    labels = ("A", "B")
    return render(
        "compare.html.jinja",
        runs=list(zip(labels, (a, b), strict=True)),
        same_rows=comparison.same_rows,
        settings=comparison.settings,
        figures=metric_rows(comparison),
        charts=charts(list(zip(labels, (a, b), strict=True))),
    )
