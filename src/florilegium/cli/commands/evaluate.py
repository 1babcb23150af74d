"""`florilegium evaluate`: what a run learned, forgot and copies, measured."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from florilegium.cli.command_parser import Commands, add_command
from florilegium.cli.flags import add_run, given_run
from florilegium.cli.loading import loading_pytorch
from florilegium.cli.notify import add_notify
from florilegium.cli.screen import json_line, print_line
from florilegium.cli.writing import add_where_it_runs
from florilegium.config.processes import is_first_process
from florilegium.storage.run_directory import adapter_folder, find_run

if TYPE_CHECKING:
    from florilegium.runs.evaluate import EvaluationReport

_SETTINGS = (
    "base",
    "data",
    "model",
    "general",
    "generations",
    "rows",
    "seed",
    "known_tags",
    "bits",
    "device",
    "repeats",
)


def add(commands: Commands) -> None:
    evaluate = add_command(
        commands,
        "evaluate",
        "measure a run: held-out loss, tag accuracy, forgetting, copying",
        "florilegium evaluate --base",
        "florilegium evaluate --base --full",
        "florilegium evaluate runs/NAME --base --general my_own_texts.txt",
    )
    add_run(evaluate, "a run's folder or name; default: the newest one")
    add = evaluate.add_argument
    add("--base", action="store_true", help="measure the base model too, side by side")
    add("--full", action="store_true", help="print every metric with its interval, not only the five main ones")
    add("--data", metavar="DATA", help="path of the run's data, if it has moved")
    add("--model", metavar="MODEL", help="path of the base model, if it has moved")
    add("--general", metavar="FILE", help="general text to measure forgetting with; default: built-in sample text")
    add("--generations", type=int, default=200, metavar="N", help="unconditional samples to write (200)")
    add("--rows", type=int, default=500, metavar="N", help="evaluate on at most N held-out rows (500)")
    add("--seed", type=int, default=0, metavar="N", help="random seed of the samples (0)")
    add("--known-tags", action="store_true", help="also rank the tags of the training rows for each held-out quote")
    add(
        "--repeats",
        type=int,
        default=0,
        metavar="N",
        help="train N more times with other seeds (split, adapter, order), and show what differs between runs (0)",
    )
    add_where_it_runs(evaluate)
    add_notify(evaluate)


def run(flags: argparse.Namespace) -> None:
    adapter_folder(find_run(given_run(flags)))  # before torch is imported
    with loading_pytorch():
        from florilegium.cli.progress import TerminalView
        from florilegium.runs.evaluate import UnsavedEvaluation, evaluate
    settings = {name: getattr(flags, name) for name in _SETTINGS}
    view = TerminalView()
    unsaved = None
    try:
        report = evaluate(given_run(flags), **settings, view=view)
    except UnsavedEvaluation as error:
        report, unsaved = error.report, error
    finally:
        view.stop()
    if is_first_process():
        _show(report, flags)
    if unsaved is not None:
        raise unsaved


def _show(report: EvaluationReport, flags: argparse.Namespace) -> None:
    if flags.json:
        print_line(json_line(report))
        return
    from florilegium.cli.tables import print_evaluation

    print_evaluation(report, full=flags.full)
