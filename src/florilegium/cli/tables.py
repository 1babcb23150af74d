"""`florilegium evaluate` and `florilegium report A B C` as tables for people."""

from __future__ import annotations

import shlex

from rich.table import Table
from rich.text import Text

from florilegium.cli.consoles import ResultConsole
from florilegium.cli.evaluation_table import print_headline, print_table
from florilegium.cli.screen import printable
from florilegium.errors import counted
from florilegium.evaluation import spread_rows
from florilegium.evaluation.table import lookup
from florilegium.report.compare import Comparison, metric_rows
from florilegium.runs.evaluate import EvaluationReport


def print_evaluation(report: EvaluationReport, *, full: bool) -> None:
    """The metrics of `runs.evaluate.evaluate` on stdout: five lines and the sentence on tags; with `full` every figure,
    base beside tuned where both were asked, with intervals, and how far they can be trusted."""
    console, gap = ResultConsole(), "\n"
    print_headline(console, report)
    if full:
        print_table(console, report)
    if sentence := lookup(report, "baseline_comparison.sentence"):
        console.print(Text(f"{gap if full else ''}{sentence}.", style="bold"))
    _print_spread(console, report)
    if full:
        _print_trust(console, report)
    leaks = f"{counted(report['leaks'], 'near-duplicate pair')} across train and test (split by {report['split_by']})"
    rows = counted(report["held_out_rows"], "held-out row")
    console.print(Text(f"{'' if full else gap}{rows}, {leaks}; {report['elapsed_seconds']:.0f} s"))
    if not full:
        console.print(Text("Every metric with its interval: report.html, or here with --full", style="dim"))


def _print_spread(console: ResultConsole, report: EvaluationReport) -> None:
    """What differs between runs with other seeds, where there were some."""
    rows = spread_rows(report, short=True)
    if not rows:
        return
    seeds = lookup(report, "repeats.seeds")
    count = len(seeds) if isinstance(seeds, list) else 0
    console.print(Text(f"\nOver {count} runs with other seeds (split, adapter, order of rows)", style="bold"))
    again = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("", "this run, over rows", "mean of runs", "sd between runs"):
        again.add_column(name)
    for row in rows:
        again.add_row(*row)
    console.print(again)


def _print_trust(console: ResultConsole, report: EvaluationReport) -> None:
    """What the intervals are, and what the instruments see."""
    check = report["controls"]["copies_instrument"]
    found = f"{_percent(check['planted_found'])} of {check['planted']} planted copies found"
    shuffled = f"{_percent(check['shuffled_found'])} of shuffled ones"
    console.print(Text(f"\nIntervals: {report['interval']}. Copies: {found}, {shuffled}."))
    console.print(Text(f"Forgetting: {lookup(report, 'forgetting.sentence')}."))
    console.print(Text(f"Selection: {report['selection']['sentence']}."))


def print_comparison(comparison: Comparison) -> None:
    """Runs side by side on stdout: what was set differently, then the metrics, with what they differ by from the first."""
    console = ResultConsole()
    grid = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("", *comparison.runs):
        grid.add_column(Text(printable(name)), overflow="fold")
    for name, values in comparison.settings.items():
        grid.add_row(
            Text(printable(name)), *(Text("–" if value is None else printable(str(value))) for value in values)
        )
    grid.add_row("")
    for row in metric_rows(comparison, short=True):
        cells = [
            Text.assemble(
                (cell.text, "bold" if cell.is_best else ""), (f" ({cell.delta})" if cell.delta else "", "dim")
            )
            for cell in row.cells
        ]
        grid.add_row(Text(row.name), *cells)
    console.print(grid)
    for pair in comparison.paired:
        console.print(Text(f"\n{printable(pair.title)}", style="bold"))
        differences = Table(box=None, pad_edge=False, show_header=False)
        for metric, change, verdict in pair.lines:
            differences.add_row(Text(metric), Text(change), Text(printable(verdict)))
        if pair.lines:
            console.print(differences)
    for directory in comparison.not_evaluated:
        command = f"florilegium evaluate {shlex.quote(directory)}"
        console.print(Text(f"\nNot evaluated yet: {printable(command)}", style="dim"))
    if comparison.warning:
        console.print(Text(f"\n{comparison.warning}", style="bold"))


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{100 * share:.0f}%"
