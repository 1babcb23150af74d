"""`florilegium report`: a run's page, or two runs compared."""

from __future__ import annotations

import argparse
from pathlib import Path

from florilegium.cli.command_parser import Commands, add_command
from florilegium.cli.flags import add_run, given_run
from florilegium.cli.screen import json_line, print_line
from florilegium.errors import UsageError
from florilegium.storage.run_directory import find_run


def add(commands: Commands) -> None:
    report = add_command(
        commands,
        "report",
        "rebuild a run's report, or compare two runs",
        "florilegium report",
        "florilegium report runs/A runs/B",
    )
    add_run(report, "a run's folder or name; default: the newest one")
    report.add_argument("other", nargs="?", metavar="RUN_B", help="a second run, to compare with")
    report.add_argument("--output", metavar="FILE", help="file of the comparison (comparison.html)")


def run(flags: argparse.Namespace) -> None:
    from florilegium.report import write_report

    directory = find_run(given_run(flags))
    if flags.other is not None:
        _compare(directory, find_run(flags.other), Path(flags.output or "comparison.html"), flags.json)
        return
    if flags.output:
        raise UsageError("--output is for the comparison of two runs", "A run's own page is its report.html")
    page = write_report(directory)
    print_line(json_line({"report": str(page)}) if flags.json else page)


def _compare(first: Path, second: Path, page: Path, as_json: bool) -> None:
    from florilegium.report import compare_runs, comparison_page, read_run
    from florilegium.storage.atomic_files import write_text

    a, b = read_run(first), read_run(second)
    write_text(page, comparison_page(a, b))
    comparison = compare_runs(a, b)
    if as_json:
        print_line(json_line({**comparison.to_json(), "report": str(page)}))
        return
    from florilegium.cli.tables import print_comparison

    print_comparison(comparison)
    print_line(f"\n{page}")
