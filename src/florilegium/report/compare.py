"""Runs side by side: what was set differently, and what came of it, each against the first.

Which run is best at a metric is marked only where that is more than chance: no other run's interval reaches into its
own, and none where a figure has no interval. Losses per token are compared only where they are of the same rows and
tokens (`comparable.py`). Where two runs were evaluated on the same rows, these are compared row by row (`evaluation/paired.py`), which sees
far smaller differences, and says where it sees none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from string import ascii_uppercase

from florilegium.errors import UsageError, counted
from florilegium.evaluation import PairedDifference, paired_differences
from florilegium.evaluation.table import LINES, SHARE, Line, lookup, written
from florilegium.report.comparable import is_per_token, sentence, what_differs
from florilegium.report.page import charts, render
from florilegium.report.page_lists import duration, gibibytes, number
from florilegium.report.quote_cards import QuoteCard, prompt_cards
from florilegium.report.run_reader import RunRecord

NOT_COMPARED = ("output", "force")
MOST_RUNS = 8  # as many colours as the page has
_OF_THE_RUN = {
    "eval_loss_before": Line("", "held-out loss before training"),
    "eval_loss": Line("", "held-out loss", "lower"),
    "steps": Line("", "steps"),
    "elapsed_seconds": Line("", "time", "lower"),
    "tokens_per_second": Line("", "tokens/s", "higher"),
    "peak_memory_bytes": Line("", "peak memory", "lower"),
}
_FORGETTING = Line("", "loss on general text: change", "lower", "+.3f")
_OF_ANY_ROWS = ("steps", "elapsed_seconds", "tokens_per_second", "peak_memory_bytes", "forgetting")  # comparable always


@dataclass(frozen=True)
class ComparedCell:
    """A run's value, what it differs by from the first run's, and whether it is the best of all."""

    text: str
    delta: str
    is_best: bool


@dataclass(frozen=True)
class ComparedRow:
    name: str
    cells: tuple[ComparedCell, ...]


@dataclass(frozen=True)
class PairedRuns:
    """What the run `second` differs by from `first` on the rows that both were evaluated on; the names are as they are
    shown."""

    first: str
    second: str
    differences: tuple[PairedDifference, ...]

    @property
    def lines(self) -> list[tuple[str, str, str]]:
        """(metric, difference with its interval, which is better), for people."""
        return [
            (found.name, written(asdict(found.change), "+.4f"), found.verdict(self.first, self.second))
            for found in self.differences
        ]

    @property
    def title(self) -> str:
        if not self.differences:
            return (
                f"{self.second} and {self.first} cannot be paired: no rows that florilegium evaluate measured in both"
            )
        rows = max(found.rows for found in self.differences)
        return f"{self.second} minus {self.first}, paired on {counted(rows, 'row')} that both were evaluated on"

    def to_json(self) -> dict[str, object]:
        verdicts = [found.verdict(self.first, self.second) for found in self.differences]
        metrics = [asdict(one) | {"verdict": verdict} for one, verdict in zip(self.differences, verdicts, strict=True)]
        return {"first": self.first, "second": self.second, "metrics": metrics}


@dataclass(frozen=True)
class Comparison:
    """`settings`: name to each run's value, where they differ; `metrics`: name to each run's, a metric as `evaluate`
    writes it, a number or None; `same_rows`: whether all were trained on the same rows (else their losses cannot be
    compared); `paired`: each run against the first, on the rows that both were evaluated on; `not_evaluated`: the folders of
    those that were not, where others were; `differs`: what keeps their losses per token from being compared."""

    runs: list[str]
    same_rows: bool
    settings: dict[str, list[object]]
    metrics: dict[str, list[object]]
    paired: tuple[PairedRuns, ...] = ()
    not_evaluated: tuple[str, ...] = ()
    differs: tuple[str, ...] = ()

    @property
    def warning(self) -> str:
        """What of it cannot be compared, for people; empty where all can."""
        return sentence(self.same_rows, self.differs)

    def to_json(self) -> dict[str, object]:
        return {
            "runs": self.runs,
            "same_rows": self.same_rows,
            "losses_differ_in": list(self.differs),
            "settings": self.settings,
            "figures": self.metrics,
            "paired": [pair.to_json() for pair in self.paired],
        }


def compare_runs(*runs: RunRecord) -> Comparison:
    """What `report A B C` shows. Raises UsageError for more runs than there are colours."""
    if len(runs) > MOST_RUNS:
        raise UsageError(f"{len(runs)} runs are too many for one page", f"Compare at most {MOST_RUNS}")
    keys = dict.fromkeys(key for run in runs for key in run.config if key not in NOT_COMPARED)
    settings: dict[str, list[object]] = {key: [run.config.get(key) for run in runs] for key in keys}
    metrics: dict[str, list[object]] = {key: [run.manifest.get(key) for run in runs] for key in _OF_THE_RUN}
    for line in (line for lines in LINES.values() for line in lines):
        metrics[line.path] = [lookup(run.evaluation, f"tuned.{line.path}") for run in runs]
    metrics["forgetting"] = [lookup(run.evaluation, "forgetting.change") for run in runs]
    digests = [lookup(run.manifest, "data.digest") for run in runs]
    return Comparison(
        [str(run.directory) for run in runs],
        digests[0] is not None and all(digest == digests[0] for digest in digests),
        {key: values for key, values in settings.items() if any(value != values[0] for value in values)},
        {key: values for key, values in metrics.items() if any(value is not None for value in values)},
        _paired(runs),
        tuple(str(run.directory) for run in runs if not run.evaluation) if any(r.evaluation for r in runs) else (),
        what_differs(runs),
    )


def _paired(runs: Sequence[RunRecord]) -> tuple[PairedRuns, ...]:
    """Each run against the first, where both are evaluated; without differences where they share too few rows, or an
    earlier version evaluated them."""
    names = [run.name for run in runs]
    shown = names if len(set(names)) == len(names) else [str(run.directory) for run in runs]
    sides = [lookup(run.evaluation, "tuned.by_row") for run in runs]
    pairs = [
        PairedRuns(shown[0], name, tuple(paired_differences([(sides[0], side)])))
        for name, side, run in zip(shown[1:], sides[1:], runs[1:], strict=True)
        if runs[0].evaluation and run.evaluation
    ]
    return tuple(pairs)


def metric_rows(comparison: Comparison, short: bool = False) -> list[ComparedRow]:
    """Each metric that two runs have at least as text, a cell a run."""
    lines = {line.path: line for group in LINES.values() for line in group} | _OF_THE_RUN | {"forgetting": _FORGETTING}
    shared = {key: v for key, v in comparison.metrics.items() if sum(value is not None for value in v) > 1}

    def comparable(key: str) -> bool:
        of_these_rows = comparison.same_rows and not (is_per_token(key) and comparison.differs)
        return of_these_rows or key in _OF_ANY_ROWS

    return [_row(key, lines[key], values, short, comparable(key)) for key, values in shared.items()]


def _row(key: str, line: Line, values: Sequence[object], short: bool, comparable: bool) -> ComparedRow:
    """A figure's cells; of figures on different rows none is the best, and differences say nothing."""
    texts = [_text(key, value, line.style, short) for value in values]
    best = _best(line.better, values) if comparable and len(set(filter(None, texts))) > 1 else None
    first = _plain(values[0]) if comparable else None
    cells = []
    for i, (value, text) in enumerate(zip(values, texts, strict=True)):
        here = _plain(value)
        delta = "" if here is None or first is None or text == texts[0] else _delta(key, here - first, line.style)
        cells.append(ComparedCell(text, delta, i == best))
    return ComparedRow(line.name, tuple(cells))


def _best(better: str, values: Sequence[object]) -> int | None:
    """Which value is the best: none where two may be, where only one run has it, or where one has no interval."""
    spans = {i: span for i, value in enumerate(values) if (span := _span(value)) is not None}
    has_all = len(spans) == sum(_plain(value) is not None for value in values)
    if better not in ("lower", "higher") or len(spans) < 2 or not has_all:
        return None
    if better == "lower":
        best = min(spans, key=lambda i: spans[i][1])
        return best if all(spans[best][1] < span[0] for i, span in spans.items() if i != best) else None
    best = max(spans, key=lambda i: spans[i][0])
    return best if all(spans[best][0] > span[1] for i, span in spans.items() if i != best) else None


def _span(value: object) -> tuple[float, float] | None:
    if isinstance(value, Mapping) and isinstance(value.get("low"), float) and isinstance(value.get("high"), float):
        return value["low"], value["high"]
    return None


def _plain(value: object) -> float | None:
    if isinstance(value, Mapping):
        value = value.get("value")
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _delta(key: str, change: float, style: str) -> str:
    if not change:
        return ""
    if key == "peak_memory_bytes":
        return f"{change / 2**30:+.2f} GiB"
    if key == "elapsed_seconds":
        return f"{change:+,.0f} s"
    if key in ("steps", "tokens_per_second"):
        return f"{change:+,.0f}"
    return f"{100 * change:+.1f} points" if style == SHARE else f"{change:+{style.lstrip('+')}}"


def _text(key: str, value: object, style: str, short: bool) -> str:
    if key == "peak_memory_bytes":
        return gibibytes(value)
    if key == "elapsed_seconds":
        return duration(value)
    if key in ("steps", "tokens_per_second"):
        return number(value, ",.0f")
    return written(value, style, short)


def comparison_page(*runs: RunRecord) -> str:
    """The comparison as a page of the same kind as report.html: one colour a run, samples side by side."""
    comparison = compare_runs(*runs)
    named = list(zip(ascii_uppercase, runs, strict=False))
    return render(
        "compare.html.jinja",
        runs=named,
        labels=[label for label, _ in named],
        warning=comparison.warning,
        settings=comparison.settings,
        figures=metric_rows(comparison),
        paired=comparison.paired,
        charts=charts(named),
        samples=_samples(runs),
        not_evaluated=comparison.not_evaluated,
    )


def _samples(runs: Sequence[RunRecord]) -> list[tuple[str, list[QuoteCard | None]]]:
    """For each prompt what the adapter that each run kept wrote; prompts that one run alone had are left out."""
    last = [{cards.prompt: cards.after for cards in prompt_cards(run.samples, run.kept_step)} for run in runs]
    shared = [prompt for prompt in last[0] if sum(prompt in own for own in last) > 1]
    return [(prompt, [own.get(prompt) for own in last]) for prompt in shared]
