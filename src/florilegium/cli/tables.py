"""`florilegium inspect`, `evaluate` and `report`, as text for people."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from florilegium.cli.progress import one_row, printable
from florilegium.data import finding_sentences
from florilegium.evaluation.table import table
from florilegium.report.compare import figure_rows


def print_inspection(report: dict[str, Any]) -> None:
    """The report of `inspection.inspect` on stdout: numbers first, then three rows with the learned tokens marked."""
    console = Console(highlight=False, soft_wrap=True)
    for name, value in report.items():
        if name not in ("rows", "findings"):
            console.print(Text(f"{name.replace('_', ' '):<22} {_short(value)}"))
    _print_findings(console, report["findings"])
    for row in report["rows"]:
        console.print()
        console.print(Text(printable(f"{row['place']}, trained as")))
        console.print(Text(printable("  " + row["text"])))
        line = Text("  ")
        for token, learned in zip(row["tokens"], row["learned"], strict=True):
            line.append(printable(token).replace(" ", "·") or "?", style="bold green" if learned else "dim")
            line.append("|", style="dim")
        console.print(line)
        taken = f"packed row {row['packed_row']}, positions {row['packed_from']} to {row['packed_to'] - 1}"
        learned = sum(row["learned"])
        console.print(Text(f"  {len(row['tokens'])} tokens, {learned} learned (green), {taken}", style="dim"))


def print_evaluation(report: dict[str, Any]) -> None:
    """The figures of `examination.evaluate` on stdout: base beside tuned where both were asked, intervals in
    brackets."""
    console = Console(highlight=False)
    has_base = report["base"] is not None
    grid = Table(box=None, pad_edge=False, show_header=True, header_style="dim")
    for name in ("", *(("base",) if has_base else ()), "tuned", "to compare"):
        grid.add_column(name, overflow="fold")
    for title, lines in table(report, short=console.width < 150).items():
        grid.add_row(Text(title, style="bold"))
        for cells in lines:
            values = [cells.base] if has_base else []
            note = cells.control if has_base or cells.line.path else f"{cells.control}, before {cells.base}"
            grid.add_row(Text(f"  {cells.line.name}"), *values, cells.tuned, Text(note, style="dim"))
    console.print(grid)
    check = report["controls"]["copies_instrument"]
    found = f"{_percent(check['planted_found'])} of {check['planted']} planted copies found"
    console.print(
        Text(
            f"\nIntervals: {report['interval']}. Copies: {found}, {_percent(check['shuffled_found'])} of shuffled ones."
        )
    )
    leaks = f"{report['leaks']} near-duplicate pairs across the split (by {report['split_by']})"
    console.print(Text(f"{report['held_out_rows']} held-out rows, {leaks}; {report['elapsed_seconds']:.0f} s"))


def print_comparison(comparison: dict[str, Any]) -> None:
    """Two runs side by side on stdout: what was set differently, then the figures."""
    console = Console(highlight=False)
    grid = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("", *comparison["runs"]):
        grid.add_column(Text(printable(name)), overflow="fold")
    for name, pair in comparison["settings"].items():
        grid.add_row(Text(printable(name)), *(Text(printable(str(value))) for value in pair))
    grid.add_row("")
    for name, *values in figure_rows(comparison, short=True):
        grid.add_row(Text(name), *(Text(value) for value in values))
    console.print(grid)
    if not comparison["same_rows"]:
        console.print(
            Text(
                "\nThey were trained on different rows: their losses and F1 are about different questions.",
                style="bold",
            )
        )


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{100 * share:.0f}%"


def _print_findings(console: Console, findings: dict[str, Any]) -> None:
    """What the doctor found, a line a finding; clusters of near-duplicates with their texts."""
    console.print()
    for name, sentence in finding_sentences(findings):
        console.print(Text(printable(f"{name:<22} {sentence}")))
    for cluster in findings["near_duplicates"]["shown"][:3]:
        for row in cluster:
            console.print(Text(printable(f"  {row['place']}  {one_row(row['text'], 100)}"), style="dim"))
        console.print()


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return printable(", ".join(f"{k} {_short(v)}" for k, v in value.items())) or "none"
    if isinstance(value, list):
        if value and isinstance(value[0], list):
            return ", ".join(f"{printable(str(pair[0]))} {pair[1]}" for pair in value)
        return one_row(printable(", ".join(map(str, value))), 120) or "none"
    return f"{value:,}" if isinstance(value, int) else printable(str(value))
