"""The command line: a function a command. It parses, makes one library call, prints, and turns an expected failure into
one line and an exit code (`errors.py`). Each command imports what it needs when it runs, so that `florilegium --help`
is instant."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from florilegium.cli.flags import config_from_flags
from florilegium.cli.parser import INSPECT_SETTINGS, build_parser
from florilegium.config import TrainConfig
from florilegium.errors import FlorilegiumError, UsageError, redact
from florilegium.signals import watch

NEXT = """
Next, the same on 2,500 real quotes and a real BLOOM (needs the Hugging Face Hub):
    florilegium train Abirate/english_quotes --model bigscience/bloom-560m
and on a GPU with 24 GB:
    florilegium train Abirate/english_quotes --model bigscience/bloom-7b1"""


def run_train(flags: argparse.Namespace) -> None:
    config = config_from_flags(flags)
    if flags.print_config:
        from florilegium.config import dump_config

        print(dump_config(config), end="")
        return
    from florilegium.data import read_rows

    # Read before torch is imported: most mistakes are in the rows or their name, and are told in half a second.
    rows = read_rows(config.data, config.template, skip_bad_rows=config.skip_bad_rows, fix_encoding=config.fix_encoding)

    from florilegium.cli.progress import TerminalView
    from florilegium.runs.train import train_config

    view = TerminalView()
    try:
        _show_trained(train_config(config, view, rows), flags.json)
    finally:
        view.stop()


def run_resume(flags: argparse.Namespace) -> None:
    from florilegium.cli.progress import TerminalView
    from florilegium.runs.resume import resume

    names = {f.name for f in fields(TrainConfig)}
    given = {name: value for name, value in vars(flags).items() if name in names}
    view = TerminalView()
    try:
        _show_trained(resume(flags.run, view=view, **given), flags.json)
    finally:
        view.stop()


def _show_trained(trained: Any, as_json: bool) -> None:
    """The end of a run: some quotes, where it lies, what to type next."""
    from florilegium.cli.progress import gigabytes, print_quote

    figures, template = trained.figures, trained.tuned.template
    rows = trained.tuned.generate("", n=5, seed=figures["seed"])
    if as_json:
        adapter = str(trained.directory / "adapter")
        print(
            json.dumps(
                {
                    "run": str(trained.directory),
                    "adapter": adapter,
                    **figures,
                    "quotes": [r.as_row(template) for r in rows],
                }
            )
        )
        return
    print(flush=True)
    for row in rows:
        print_quote(row, template)
    before, after = figures["eval_loss_before"], figures["eval_loss"]
    loss = f"held-out loss {before:.3f} -> {after:.3f}, " if after is not None else ""
    speed = f"{figures['tokens_per_second']:,.0f} tokens/s, peak memory {gigabytes(figures['peak_memory_bytes'])}"
    print(f"\n{loss}{figures['steps']} steps in {figures['elapsed_seconds']:.0f} s, {speed}")
    run = shlex.quote(str(trained.directory))
    print(
        f"The adapter is in {trained.directory / 'adapter'}\n\nAsk it for more:\n    florilegium generate 'The sea' -n 5 --run {run}"
    )
    print(f"See what it learned, forgot and copies:\n    florilegium evaluate {run} --base")
    print(NEXT)


def run_generate(flags: argparse.Namespace) -> None:
    from florilegium.config import SamplingSettings
    from florilegium.storage.run_directory import adapter_folder, find_run

    names = ("max_new_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "seed")
    settings = SamplingSettings(**{n: getattr(flags, n) for n in names if getattr(flags, n) is not None})
    if flags.interactive and (flags.prompts or flags.prompt):
        raise UsageError("--interactive asks for prompts itself", "Leave PROMPT and --prompts out")
    if flags.n < 1:
        raise UsageError(f"-n is {flags.n}", "It takes 1 or more")
    if flags.novel_only and (flags.base or flags.tags):
        raise UsageError(
            "--novel-only is for quotes that the tuned model writes",
            f"Leave {'--base' if flags.base else '--tags'} out",
        )
    prompts = _read_prompts(flags.prompts) if flags.prompts else [flags.prompt or ""]
    adapter_folder(find_run(flags.run))  # before torch is imported

    from florilegium.cli.progress import print_quote, working
    from florilegium.generation.tuned import load

    with working("loading the model"):
        tuned = load(flags.run, model=flags.model, bits=flags.bits, device=flags.device)

    def show(prompts: list[str]) -> None:
        with working(f"writing {len(prompts) * flags.n}" + tuned.warm_up_note()):
            if flags.base:
                pairs = tuned.beside_base(prompts, flags.n, tags=flags.tags, settings=settings)
                rows, beside = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
            else:
                rows = tuned.generate(prompts, flags.n, tags=flags.tags, settings=settings, novel_only=flags.novel_only)
                beside = []
        left_out = len(prompts) * flags.n - len(rows)
        if left_out:
            print(f"{left_out} left out: ten tries each gave copies of training rows, or no quote", file=sys.stderr)
        for i, row in enumerate(rows):
            if flags.json:
                extra = {"base": beside[i].as_row(tuned.template)} if beside else {}
                print(json.dumps({**row.as_row(tuned.template), **extra}, ensure_ascii=False))
            else:
                print_quote(row, tuned.template, "tuned" if beside else "")
                if beside:
                    print_quote(beside[i], tuned.template, "base ")
                print()

    if not flags.interactive:
        show(prompts)
        return
    print("Type how a quote begins, or a whole one with --tags; an empty line ends it.", file=sys.stderr)
    while prompt := _ask():
        show([prompt])


def _ask() -> str:
    print("> ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip()


def _read_prompts(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8") as file:
            prompts = [line.strip() for line in file if line.strip()]
    except OSError as error:
        raise UsageError(
            f"cannot read {path}: {error.strerror}", "--prompts takes a text file with a prompt a line"
        ) from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 (byte {error.start})", "Save it as UTF-8") from None
    if not prompts:
        raise UsageError(f"{path} holds no prompt", "Write one a line")
    return prompts


def run_evaluate(flags: argparse.Namespace) -> None:
    from florilegium.storage.run_directory import adapter_folder, find_run

    adapter_folder(find_run(flags.run))  # before torch is imported

    from florilegium.cli.progress import TerminalView
    from florilegium.runs.evaluate import evaluate

    names = ("base", "data", "model", "general", "generations", "rows", "seed", "bits", "device")
    report = evaluate(flags.run, **{name: getattr(flags, name) for name in names}, view=TerminalView())
    if flags.json:
        print(json.dumps(report, ensure_ascii=False))
        return
    from florilegium.cli.tables import print_evaluation

    print_evaluation(report)


def run_report(flags: argparse.Namespace) -> None:
    from pathlib import Path

    from florilegium.report import compare_runs, comparison_page, read_run, write_report
    from florilegium.storage.atomic_files import write_text
    from florilegium.storage.run_directory import find_run

    directory = find_run(flags.run)
    if flags.other is None:
        if flags.output:
            raise UsageError("--output is for the comparison of two runs", "A run's own page is its report.html")
        page = write_report(directory)
        print(json.dumps({"report": str(page)}) if flags.json else page)
        return
    a, b = read_run(directory), read_run(find_run(flags.other))
    page = Path(flags.output or "comparison.html")
    write_text(page, comparison_page(a, b))
    comparison = compare_runs(a, b)
    if flags.json:
        print(json.dumps({**comparison, "report": str(page)}, ensure_ascii=False))
        return
    from florilegium.cli.tables import print_comparison

    print_comparison(comparison)
    print(f"\n{page}")


def run_inspect(flags: argparse.Namespace) -> None:
    from florilegium.runs.inspect import inspect

    config = config_from_flags(flags)
    report = inspect(config.data, **{name: getattr(config, name) for name in INSPECT_SETTINGS if name != "data"})
    if flags.json:
        print(json.dumps(report, ensure_ascii=False))
        return
    from florilegium.cli.tables import print_inspection

    print_inspection(report)


def run_completion(flags: argparse.Namespace) -> None:
    import shtab

    print(shtab.complete(build_parser(), shell=flags.shell))


COMMANDS = {
    "train": run_train,
    "resume": run_resume,
    "generate": run_generate,
    "evaluate": run_evaluate,
    "inspect": run_inspect,
    "report": run_report,
    "completion": run_completion,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    # Tokenizers warn about forks, and telemetry would be something sent unasked.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    debug = "--debug" in (sys.argv[1:] if arguments is None else arguments)
    try:
        parser = build_parser()
        flags = parser.parse_known(sys.argv[1:] if arguments is None else arguments)
        if flags.version:
            from florilegium.config.installed import installed_version

            print(installed_version("florilegium"))
            return 0
        if flags.command is None:
            parser.print_help()
            return 0
        with watch() if flags.command in ("train", "resume") else contextlib.nullcontext():
            COMMANDS[flags.command](flags)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("florilegium: stopped by SIGINT", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `florilegium generate | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        return _tell(error, debug)
    return 0


def _tell(error: Exception, debug: bool) -> int:
    """One line for an expected failure, the traceback for our own mistakes and with --debug, no secret in either. The
    exit code."""
    if isinstance(error, FlorilegiumError) and not debug:
        words = f"florilegium: {error}\n"
    else:
        import traceback

        words = redact("".join(traceback.format_exception(error)))
    with contextlib.suppress(OSError):  # the exit code must stand even where nothing can be written
        sys.stderr.write(words)
        sys.stderr.flush()
    return error.exit_code if isinstance(error, FlorilegiumError) else 1
