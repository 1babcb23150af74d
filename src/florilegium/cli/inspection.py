"""`florilegium inspect` for people: how many rows, how they are split, what is wrong with them, three of them as they are
trained."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text

from florilegium.cli.consoles import ResultConsole
from florilegium.cli.progress import one_row
from florilegium.cli.screen import on_screen, printable
from florilegium.data import finding_sentences
from florilegium.data.data_report import TagCounts
from florilegium.errors import counted
from florilegium.runs.inspect import InspectedRow, Inspection

_WIDTH, _MOST_CLUSTERS, _MOST_BAD_ROWS = 22, 3, 10


def print_inspection(report: Inspection) -> None:
    """The report of `runs.inspect.inspect` on stdout."""
    console = ResultConsole(soft_wrap=True)
    for name, sentence in [*_facts(report), *finding_sentences(report.findings)]:
        console.print(Text(on_screen(printable(f"{name:<{_WIDTH}} {sentence}"), indent=_WIDTH + 1)))
    for cluster in report.findings.near_duplicates.shown[:_MOST_CLUSTERS]:
        for near in cluster:
            console.print(Text(printable(f"  {near.place}  {one_row(near.text, 100)}"), style="dim"))
        console.print()
    for row in report.rows:
        _print_row(console, row)


def _facts(report: Inspection) -> Iterator[tuple[str, str]]:
    """The lines before the findings."""
    read, skipped = report.num_read, report.skipped
    dropped = f", {counted(report.duplicates, 'exact duplicate')} dropped" if report.duplicates else ""
    for note in report.notes:
        yield "read", note
    yield "rows", f"{report.num_rows:,} of {read:,} read{dropped}"
    if skipped.rows:
        causes = "; ".join(f"{cause} ({count:,})" for cause, count in skipped.causes.items())
        yield "bad rows", f"{skipped.rows:,}: {one_row(causes, 160)}"
        for row in report.skipped_rows[:_MOST_BAD_ROWS]:
            yield "", f"{row.place}: {row.cause}. {row.fix}"
    yield "template", report.template
    yield "split", _split(report)
    yield "length", _lengths(report)
    if report.tags:
        yield "tags", _tags(report.tags)
    for name, found in (("broken encoding", report.broken_encoding), ("very short", report.very_short)):
        if found.rows:
            yield name, f"{counted(found.rows, 'row')}: {', '.join(found.places[:3])}"


def _split(report: Inspection) -> str:
    by, leaks = report.split_by, report.leaks
    aside = f", {report.set_aside_rows:,} left out as near-duplicates of both" if report.set_aside_rows else ""
    random = f" (random split: {leaks['random']:,})" if by != "random" and "random" in leaks else ""
    across = f"{counted(leaks.get(by, 0), 'near-duplicate pair')} across train and test{random}"
    mould = report.rows_of_one_mould
    alike = f"; {mould:,} rows share one pattern and are not treated as near-duplicates" if mould else ""
    sides = f"{report.training_rows:,} to train on, {report.held_out_rows:,} held out{aside}"
    return f"{sides}; by {by}: {across}{alike}"


def _lengths(report: Inspection) -> str:
    words, tokens = report.words, report.tokens
    line = f"median {counted(words.median, 'word')}, longest {words.max:,}"
    if tokens:
        line += f"; median {counted(tokens.median, 'token')}, longest {tokens.max:,}, {tokens.total:,} in all"
    cut = report.cut_rows
    return line + (f"; {counted(cut, 'quote')} shortened to --max-length" if cut else "")


def _tags(tags: TagCounts) -> str:
    frequent = ", ".join(f"{tag} {count:,}" for tag, count in tags.most_frequent[:8])
    without = f", {counted(tags.rows_without, 'row')} without" if tags.rows_without else ""
    return f"{tags.distinct:,} different, {tags.once:,} used once{without}; most frequent: {frequent or 'none'}"


def _print_row(console: ResultConsole, row: InspectedRow) -> None:
    """One row as it is trained; where its tokens are known, those that are trained are bold."""
    console.print()
    console.print(Text(printable(f"{row.place}, trained as")))
    console.print(Text(printable("  " + row.text)))
    found = row.encoded
    if found is None or not found.tokens:
        return
    line = Text("  ")
    for token, trained in zip(found.tokens, found.learned, strict=True):
        line.append(printable(token).replace(" ", "·") or "?", style="bold green" if trained else "dim")
        line.append("|", style="dim")
    console.print(line)
    marked = " (green)" if console.is_terminal and console.color_system else ""
    where = f"packed row {found.packed_row}, positions {found.packed_from} to {found.packed_to - 1}"
    summary = f"  {counted(len(found.tokens), 'token')}, {sum(found.learned):,} trained{marked}; {where}"
    console.print(Text(summary, style="dim"))
