"""`florilegium export`: a tuned model for other programs, checked before it has a name."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from florilegium.cli.command_parser import Commands, add_command
from florilegium.cli.flags import add_run, given_run
from florilegium.cli.loading import loading_pytorch
from florilegium.cli.notify import add_notify
from florilegium.cli.screen import json_line, print_line
from florilegium.errors import UsageError
from florilegium.storage.run_directory import adapter_folder, find_run, names_a_base

if TYPE_CHECKING:
    from florilegium.runs.export import Exported

FORMS = ("merged", "quantised", "gguf", "gguf-adapter", "onnx")
_OF_A_BASE = ("output", "check", "force", "device")
_SETTINGS = ("to", "output", "model", "data", "check", "force", "device")


def add(commands: Commands) -> None:
    export = add_command(
        commands,
        "export",
        "export a run as a merged or quantised model, a GGUF file or a LoRA GGUF, checked",
        "florilegium export latest --to merged",
        "florilegium export runs/NAME --to gguf --type q8_0 --output quotes-gguf",
        "florilegium export bigscience/bloom-7b1 --to quantised --bits 4",
    )
    add_run(
        export, "a run's folder or name, or an adapter folder; with --to quantised a model too; default: the newest run"
    )
    add = export.add_argument
    add("--to", choices=FORMS, default="merged", help="export format (merged)")
    add("--type", metavar="T", help="GGUF type: f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0, q4_k_m, ... (f16)")
    add("--bits", type=int, choices=(8, 4), help="bits of a quantised checkpoint: 8 = int8, 4 = NF4 (8)")
    add("--output", metavar="DIR", help="folder to make (RUN/exports/FORM)")
    add("--model", metavar="MODEL", help="path of the 16-bit base model, if it has moved or was given in int8")
    add("--data", metavar="DATA", help="path of the run's data, if it has moved")
    add("--check", action=argparse.BooleanOptionalAction, default=True, help="load the export and compare it (on)")
    add("--force", action="store_true", help="move what is at --output aside first")
    add("--device", choices=["auto", "cpu", "cuda"], default="auto", help="device of the check (auto)")
    add_notify(export)


def run(flags: argparse.Namespace) -> None:
    if flags.type is not None and flags.to != "gguf":
        raise UsageError(f"--type is for GGUF models, and --to is {flags.to}", "Leave --type out, or type: --to gguf")
    if flags.bits is not None and flags.to != "quantised":
        raise UsageError(
            f"--bits is for quantised models, and --to is {flags.to}", "Leave --bits out, or type: --to quantised"
        )
    is_base = _is_base(flags)  # before torch is imported
    with loading_pytorch():
        from florilegium.cli.progress import TerminalView
        from florilegium.runs.export import export
        from florilegium.runs.export_base import export_base
    view = TerminalView()
    settings = {name: getattr(flags, name) for name in (_OF_A_BASE if is_base else _SETTINGS)}
    make: Callable[..., Exported] = export_base if is_base else export  # each with the settings that it has
    try:
        done = make(given_run(flags), kind=_kind(flags), view=view, **settings)
    finally:
        view.stop()
    if flags.json:
        report = {"directory": str(done.directory), "to": done.to, "type": done.kind, "files": done.files}
        print_line(json_line({**report, "verdict": done.verdict.as_json()}))
        return
    _show(done, is_base)


def _is_base(flags: argparse.Namespace) -> bool:
    """Whether the positional means a model, and no run. Raises UsageError where this form wants a run, or a flag is for
    runs alone; ModelError where neither is there."""
    name = given_run(flags)
    there = name == "seedling" or Path(name).expanduser().is_dir()
    if not names_a_base(name) or (flags.to != "quantised" and not there):  # a mistyped run looks like a Hub id
        adapter_folder(find_run(name))
        return False
    if flags.to != "quantised":
        raise UsageError(f"{name} is a model, and --to {flags.to} is for runs", "Name a run, or type: --to quantised")
    for flag in ("model", "data"):
        if getattr(flags, flag) is not None:
            raise UsageError(f"--{flag} is for runs, and {name} is a model", f"Leave --{flag} out")
    return True


def _kind(flags: argparse.Namespace) -> str:
    if flags.to == "quantised":
        return "nf4" if flags.bits == 4 else "int8"
    return flags.type or "f16"


def _show(done: Exported, is_base: bool) -> None:
    """What was made, how it compares, what to type next."""
    for name, size in done.files.items():
        if size > 1 << 20 or name.endswith((".gguf", ".safetensors")):
            print_line(f"{size / 1e6:>12,.1f} MB  {done.directory / name}")
    print_line(f"\n{done.verdict.sentence()}")
    if done.verdict.passed:
        who = "its 16-bit weights do" if is_base else "the live adapter does"
        print_line(f"It was loaded again and answers as {who} ({done.verdict.rows} {done.verdict.rows_are}).")
    where = shlex.quote(str(done.directory))
    print_line(
        f"\nIts card: {done.directory / 'README.md'}\nTo the Hub:\n    florilegium push {where} USER/NAME --dry-run"
    )
