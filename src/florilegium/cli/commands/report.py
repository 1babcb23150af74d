"""`florilegium report`: a run's page, or several runs compared."""

from __future__ import annotations

import argparse
import sys
from itertools import count
from pathlib import Path

from florilegium.cli.command_parser import Commands, add_command
from florilegium.cli.flags import add_run, given_run
from florilegium.cli.loading import loading_pytorch
from florilegium.cli.screen import json_line, print_line
from florilegium.config import read_run_config
from florilegium.errors import ModelError, UsageError
from florilegium.storage.run_directory import RunDirectory, find_run


def add(commands: Commands) -> None:
    report = add_command(
        commands,
        "report",
        "rebuild a run's report, or compare runs",
        "florilegium report --open",
        "florilegium report runs/A runs/B runs/C",
    )
    add_run(report, "a run's folder or name; default: the newest one")
    report.add_argument("others", nargs="*", metavar="RUN", help="other runs, to compare with it")
    report.add_argument(
        "--output", metavar="FILE", help="file of the comparison; default: comparison.html, or the next number"
    )
    report.add_argument("--open", action="store_true", help="open the page in a browser")


def run(flags: argparse.Namespace) -> None:
    directory = find_run(given_run(flags))
    with loading_pytorch():  # the first line, before the seconds that the imports take
        from florilegium.report import write_report
    for named in (directory, *map(find_run, flags.others)):
        _say_what_is_left_out(RunDirectory(named))
    if flags.others:
        _compare([directory, *map(find_run, flags.others)], flags)
        return
    if flags.output:
        raise UsageError("--output is for a comparison of runs", "A run's own page is its report.html")
    page = write_report(directory)
    opened = {"opened": open_page(page)} if flags.open else {}
    print_line(json_line({"report": str(page), **opened}) if flags.json else page)


def open_page(page: Path) -> bool:
    """Shows the page in a browser; whether there is one."""
    import webbrowser

    return webbrowser.open(page.resolve().as_uri())


def _say_what_is_left_out(run: RunDirectory) -> None:
    """The page is made of what can be read. Raises ModelError for a folder that is no run."""
    try:
        read_run_config(run.check().config)
    except ModelError as error:
        if not run.is_run:
            raise
        print_line(f"note: {error.cause}, and not on its page", file=sys.stderr)


def _compare(directories: list[Path], flags: argparse.Namespace) -> None:
    from florilegium.report import compare_runs, comparison_page, read_run
    from florilegium.storage.atomic_files import write_text

    page = _new_file(flags.output)
    runs = [read_run(directory) for directory in directories]
    comparison = compare_runs(*runs)
    write_text(page, comparison_page(*runs))
    opened = {"opened": open_page(page)} if flags.open else {}
    if flags.json:
        print_line(json_line({**comparison.to_json(), "report": str(page), **opened}))
        return
    from florilegium.cli.tables import print_comparison

    print_comparison(comparison)
    print_line(f"\n{page}")


def _new_file(output: str | None) -> Path:
    """Where the page goes; no file that is there is written over. Raises UsageError for a name that is taken."""
    if output is not None:
        if Path(output).exists():
            raise UsageError(f"{output} is there already", "Name another file with --output, or leave it out")
        return Path(output)
    names = (Path(f"comparison{f'-{number}' if number > 1 else ''}.html") for number in count(1))
    return next(path for path in names if not path.exists())
