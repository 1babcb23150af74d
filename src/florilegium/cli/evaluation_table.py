"""The table of `florilegium evaluate`, as wide as the terminal: a label is never broken, whatever the width.

    100 columns and more   label, base, tuned, what to compare with
    from 76                what to compare with stands under the label where it is long
    below                  base and tuned stand there too

Rich's own table breaks the labels first, which are what a person looks for."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.text import Text

from florilegium.evaluation.headline import headline
from florilegium.evaluation.table import Cells, table

BESIDE_FROM, COLUMNS_FROM = 100, 76
_GAP = "  "


def print_headline(console: Console, report: Mapping[str, object]) -> None:
    """Five lines, the name of each before it."""
    lines = headline(report)
    width = max(len(name) for name, _ in lines) + len(_GAP)
    for name, text in lines:
        wrapped = textwrap.wrap(text, max(20, console.width - width)) or [""]
        console.print(Text.assemble((name.ljust(width), "bold"), wrapped[0]), soft_wrap=True)
        for line in wrapped[1:]:
            console.print(Text(" " * width + line), soft_wrap=True)
    console.print()


def print_table(console: Console, report: Mapping[str, object]) -> None:
    has_base = report["base"] is not None
    groups = table(report, short=console.width < 150)
    widths = _widths([cells for lines in groups.values() for cells in lines])
    if console.width >= COLUMNS_FROM:
        names = [*(("base",) if has_base else ()), "tuned"]
        _line(console, ["", *names], widths, has_base, "to compare" if console.width >= BESIDE_FROM else "", "dim")
    for title, lines in groups.items():
        console.print(Text(title, style="bold"), soft_wrap=True)
        for cells in lines:
            note = cells.control if has_base or cells.line.path else f"{cells.control}, before {cells.base}"
            values = [*((cells.base,) if has_base else ()), cells.tuned]
            _row(console, cells.line.name, values, note, widths, has_base)


def _widths(rows: Sequence[Cells]) -> tuple[int, int, int]:
    """Of the labels, which are indented by two, of base and of tuned."""
    label = 2 + max(len(cells.line.name) for cells in rows)
    return label, max(4, *(len(c.base) for c in rows)), max(5, *(len(c.tuned) for c in rows))


def _row(
    console: Console, name: str, values: Sequence[str], note: str, widths: tuple[int, int, int], has_base: bool
) -> None:
    if console.width >= COLUMNS_FROM:
        _line(console, [f"  {name}", *values], widths, has_base, note)
        return
    console.print(Text(f"  {name}"), soft_wrap=True)
    named = zip(("base", "tuned"), values, strict=True) if has_base else [("tuned", values[0])]
    _indented(console, ", ".join(f"{side} {value}" for side, value in named if value))
    _indented(console, note, "dim")


def _line(
    console: Console,
    cells: Sequence[str],
    widths: tuple[int, int, int],
    has_base: bool,
    note: str = "",
    style: str = "",
) -> None:
    """One line of columns. A note that is too long goes on under its own beginning, or where there is little room
    beside, under the label."""
    label, base, tuned = widths
    own = [label, base, tuned] if has_base else [label, tuned]
    text = _GAP.join(cell.ljust(width) for cell, width in zip(cells, own, strict=True)) + _GAP
    room = console.width - len(text)
    if len(note) > room and console.width < BESIDE_FROM:
        console.print(Text(text.rstrip(), style), soft_wrap=True)
        _indented(console, note, "dim")
        return
    notes = textwrap.wrap(note, max(20, room)) or [""]
    line = Text.assemble((text, style), (notes[0], "dim"))
    line.rstrip()
    console.print(line, soft_wrap=True)
    for more in notes[1:]:
        console.print(Text(" " * len(text) + more, style="dim"), soft_wrap=True)


def _indented(console: Console, text: str, style: str = "") -> None:
    for line in textwrap.wrap(text, max(20, console.width - 6)):
        console.print(Text(f"      {line}", style=style), soft_wrap=True)
