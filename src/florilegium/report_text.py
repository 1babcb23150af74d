"""`florilegium inspect`, as text for people."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from florilegium.terminal import one_row, printable


def print_inspection(report: dict[str, Any]) -> None:
    """The report of `inspection.inspect` on stdout: numbers first, then three rows with the learned tokens marked."""
    console = Console(highlight=False, soft_wrap=True)
    for name, value in report.items():
        if name != "rows":
            console.print(Text(f"{name.replace('_', ' '):<22} {_short(value)}"))
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


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return printable(", ".join(f"{k} {_short(v)}" for k, v in value.items())) or "none"
    if isinstance(value, list):
        if value and isinstance(value[0], list):
            return ", ".join(f"{printable(str(pair[0]))} {pair[1]}" for pair in value)
        return one_row(printable(", ".join(map(str, value))), 120) or "none"
    return f"{value:,}" if isinstance(value, int) else printable(str(value))
