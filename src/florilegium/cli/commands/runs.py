"""`florilegium runs`: the runs in runs/ listed, renamed, removed; their pages opened, their checkpoints pruned."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from florilegium.cli.command_parser import Commands, add_command
from florilegium.cli.screen import json_line, print_line
from florilegium.errors import UsageError, counted
from florilegium.storage.paths import quoted
from florilegium.storage.run_directory import RunDirectory

ACTIONS = ("list", "ls", "open", "rename", "rm", "prune")


def add(commands: Commands) -> None:
    runs = add_command(
        commands,
        "runs",
        "list your runs; rename, remove or open one, prune checkpoints",
        "florilegium runs",
        "florilegium runs open runs/NAME",
        "florilegium runs rename runs/NAME may-quotes",
        "florilegium runs rm runs/NAME",
        "florilegium runs prune            # the checkpoints of all finished runs",
        usage="florilegium runs [list | open RUN | rename RUN NAME | rm RUN ... | prune [RUN ...]] [options]",
    )
    runs.add_argument("action", nargs="?", default="list", choices=ACTIONS, metavar="ACTION", help="what to do (list)")
    runs.add_argument("names", nargs="*", metavar="RUN", help="a run's folder or name; for rename, then its new name")
    runs.add_argument("-y", "--yes", action="store_true", help="do not ask before something is removed")


def run(flags: argparse.Namespace) -> None:
    actions: dict[str, Callable[[argparse.Namespace], None]] = {
        "list": _list, "ls": _list, "open": _open, "rename": _rename, "rm": _remove, "prune": _prune,
    }  # fmt: skip
    actions[flags.action](flags)


def _list(flags: argparse.Namespace) -> None:
    from florilegium.runs.listing import list_runs, named_run, summarise

    found = [summarise(named_run(name)) for name in flags.names] if flags.names else list_runs()
    if flags.json:
        print_line(json_line([summary.to_json() for summary in found]))
        return
    if not found:
        print_line("There is no run in runs/. Type: florilegium train", file=sys.stderr)
        return
    from florilegium.cli.run_table import print_runs

    print_runs(found)


def _open(flags: argparse.Namespace) -> None:
    from florilegium.cli.commands.report import open_page
    from florilegium.runs.listing import named_run

    run = named_run(_only(flags.names or ["latest"], "open"))
    if not run.report.is_file():
        raise UsageError(f"{run.path} has no report yet", f"Type: florilegium report {quoted(run.path)}")
    opened = open_page(run.report)
    print_line(json_line({"report": str(run.report), "opened": opened}) if flags.json else run.report)


def _rename(flags: argparse.Namespace) -> None:
    from florilegium.runs.listing import named_run, rename_run

    if len(flags.names) != 2:
        raise UsageError("`runs rename` takes a run and its new name", "Type: florilegium runs rename RUN NAME")
    path = rename_run(named_run(flags.names[0]), flags.names[1])
    print_line(json_line({"run": str(path)}) if flags.json else path)


def _remove(flags: argparse.Namespace) -> None:
    from florilegium.cli.run_table import megabytes
    from florilegium.runs.listing import named_run, remove_run, size_of

    if not flags.names:
        raise UsageError("`runs rm` takes the runs to remove", "Type: florilegium runs rm RUN")
    runs = [named_run(name) for name in dict.fromkeys(flags.names)]
    what = ", ".join(str(run.path) for run in runs)
    _ask(flags.yes, f"Remove {what} ({megabytes(sum(size_of(run.path) for run in runs))})?")
    _tell(flags, runs, [remove_run(run) for run in runs], counted(len(runs), "run") + " removed")


def _prune(flags: argparse.Namespace) -> None:
    from florilegium.cli.run_table import megabytes
    from florilegium.runs.listing import FINISHED, list_runs, named_run, prune_run, size_of

    names = flags.names or [summary.path for summary in list_runs() if summary.status == FINISHED]
    runs = [run for run in (named_run(name) for name in names) if run.has_adapter and run.checkpoints.is_dir()]
    if runs:
        size = megabytes(sum(size_of(run.checkpoints) for run in runs))
        _ask(flags.yes, f"Remove the checkpoints of {counted(len(runs), 'finished run')} ({size})?")
    _tell(flags, runs, [prune_run(run) for run in runs], f"checkpoints of {counted(len(runs), 'finished run')} removed")


def _tell(flags: argparse.Namespace, runs: Sequence[RunDirectory], freed: Sequence[int], what: str) -> None:
    from florilegium.cli.run_table import megabytes

    if flags.json:
        print_line(json_line({"removed": [str(run.path) for run in runs], "bytes": sum(freed)}))
    else:
        print_line(f"{what}, {megabytes(sum(freed))} freed")


def _only(names: Sequence[str], action: str) -> str:
    if len(names) != 1:
        raise UsageError(f"`runs {action}` takes one run", f"Type: florilegium runs {action} RUN")
    return names[0]


def _ask(yes: bool, question: str) -> None:
    """Raises UsageError unless a person says yes, or --yes does."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"{question} Nobody is there to answer", "Add --yes")
    print_line(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UsageError("nothing was removed", "Answer y, or add --yes")
