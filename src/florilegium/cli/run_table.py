"""The table of `florilegium runs`: as many columns as the terminal's width holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from florilegium.cli.consoles import ResultConsole
from florilegium.cli.screen import printable
from florilegium.runs.listing import RunSummary

_PIPED_WIDTH = 200


@dataclass(frozen=True)
class _Column:
    title: str
    text: Callable[[RunSummary], str]
    from_width: int = 0  # of the terminal


_COLUMNS = (
    _Column("run", lambda run: run.name),
    _Column("status", lambda run: run.status),
    _Column("date", lambda run: run.date, 120),
    _Column("data", lambda run: run.data or "", 100),
    _Column("model", lambda run: run.model or "", 80),
    _Column("held-out loss", lambda run: _loss(run)),
    _Column("tag F1", lambda run: "" if run.tag_f1 is None else f"{run.tag_f1:.2f}"),
    _Column("size", lambda run: megabytes(run.bytes)),
)


def print_runs(runs: Sequence[RunSummary]) -> None:
    """The runs on stdout, a line each; the newest at the end, where a terminal shows it."""
    console = ResultConsole()
    if not console.is_terminal:
        console.width = _PIPED_WIDTH
    columns = [column for column in _COLUMNS if console.width >= column.from_width]
    grid = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        grid.add_column(column.title, overflow="fold", justify="right" if column.title == "size" else "left")
    for run in runs:
        grid.add_row(*(Text(printable(column.text(run))) for column in columns))
    console.print(grid)


def _loss(run: RunSummary) -> str:
    if run.loss is None:
        return ""
    return f"{run.loss_before:.3f} -> {run.loss:.3f}" if run.loss_before is not None else f"{run.loss:.3f}"


def megabytes(size: int) -> str:
    """A size on disk, for people."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"
