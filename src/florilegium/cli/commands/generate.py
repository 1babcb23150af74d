"""`florilegium generate`: quotes for prompts from the command line, a file, or a person who types."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from florilegium.cli.command_parser import CommandParser, Commands, add_command
from florilegium.cli.loading import loading_pytorch
from florilegium.config import SamplingSettings
from florilegium.errors import UsageError
from florilegium.storage.run_directory import adapter_folder, find_run

if TYPE_CHECKING:
    from florilegium.generation import Generated
    from florilegium.generation.tuned import Tuned

_SAMPLING = ("max_new_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "seed")


def add(commands: Commands) -> None:
    generate = add_command(
        commands,
        "generate",
        "write quotes with a fine-tuned model",
        "florilegium generate",
        "florilegium generate 'The sea' -n 5 --run runs/NAME",
        "florilegium generate --tags 'Be kind whenever possible.'",
        "florilegium generate --prompts openings.txt --json",
    )
    generate.add_argument(
        "prompt", nargs="?", metavar="PROMPT", help="how the quote begins; without it, the model begins by itself"
    )
    generate.add_argument("--run", default="latest", metavar="RUN", help="a run, an adapter folder, or 'latest'")
    generate.add_argument("--model", metavar="MODEL", help="path of the base model, if it has moved")
    generate.add_argument("-n", type=int, default=3, metavar="N", help="texts for each prompt (3)")
    generate.add_argument("--prompts", metavar="FILE", help="a file with one prompt a line")
    generate.add_argument("--tags", action="store_true", help="PROMPT is a whole quote: write its tags")
    generate.add_argument("--interactive", action="store_true", help="ask for prompts until an empty line")
    generate.add_argument("--base", action="store_true", help="show what the base model writes beside each text")
    generate.add_argument(
        "--novel-only", action="store_true", help="resample texts that copy training rows, then drop them"
    )
    _add_sampling(generate)
    add_where_it_runs(generate)


def _add_sampling(generate: CommandParser) -> None:
    add = generate.add_argument_group("sampling").add_argument
    add("--temperature", type=float, metavar="X", help="0 = greedy decoding (0.7)")
    add("--top-p", type=float, metavar="X", help="nucleus sampling (0.9)")
    add("--top-k", type=int, metavar="N", help="sample from the N most likely tokens; 0 = all (0)")
    add("--repetition-penalty", type=float, metavar="X", help="values above 1 penalise repetition (1)")
    add("--max-new-tokens", type=int, metavar="N", help="maximum new tokens (100)")
    add("--seed", type=int, metavar="N", help="same seed, same texts (0)")


def add_where_it_runs(command: CommandParser) -> None:
    command.add_argument(
        "--bits", type=int, choices=[8, 4, 16, 32], help="base-weight precision; default: as it was trained"
    )
    command.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="where it runs (auto)")


def run(flags: argparse.Namespace) -> None:
    settings = SamplingSettings(**{n: getattr(flags, n) for n in _SAMPLING if getattr(flags, n) is not None})
    _check(flags)
    prompts = _read_prompts(flags.prompts) if flags.prompts else [flags.prompt or ""]
    adapter_folder(find_run(flags.run))  # before torch is imported
    with loading_pytorch():
        from florilegium.cli.progress import working
        from florilegium.generation.tuned import load
    with working("loading the model"):
        tuned = load(flags.run, model=flags.model, bits=flags.bits, device=flags.device)
    if not flags.interactive:
        _write(tuned, prompts, flags, settings)
        return
    print("Type how a quote begins, or a whole one with --tags; an empty line ends it.", file=sys.stderr)
    while prompt := _ask():
        _write(tuned, [prompt], flags, settings)


def _check(flags: argparse.Namespace) -> None:
    if flags.interactive and (flags.prompts or flags.prompt):
        raise UsageError("--interactive asks for prompts itself", "Leave PROMPT and --prompts out")
    if flags.n < 1:
        raise UsageError(f"-n is {flags.n}", "It takes 1 or more")
    if flags.novel_only and (flags.base or flags.tags):
        other = "--base" if flags.base else "--tags"
        raise UsageError("--novel-only is for quotes that the fine-tuned model writes", f"Leave {other} out")


def _write(tuned: Tuned, prompts: list[str], flags: argparse.Namespace, settings: SamplingSettings) -> None:
    """Writes `-n` texts for each prompt, and shows them."""
    from florilegium.cli.progress import working

    wanted, beside = len(prompts) * flags.n, []
    with working(f"writing {wanted}" + tuned.warm_up_note()):
        if flags.base:
            pairs = tuned.beside_base(prompts, flags.n, tags=flags.tags, settings=settings)
            rows, beside = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        else:
            rows = tuned.generate(prompts, flags.n, tags=flags.tags, settings=settings, novel_only=flags.novel_only)
    if len(rows) < wanted:
        why = "after 10 attempts each they still copied a training row or had no quote"
        print(f"{wanted - len(rows)} of {wanted} dropped: {why}", file=sys.stderr)
    _show(tuned, rows, beside, flags.json)


def _show(tuned: Tuned, rows: Sequence[Generated], beside: Sequence[Generated], as_json: bool) -> None:
    from florilegium.cli.progress import print_quote

    for i, row in enumerate(rows):
        if as_json:
            extra = {"base": beside[i].as_row(tuned.template)} if beside else {}
            print(json.dumps({**row.as_row(tuned.template), **extra}, ensure_ascii=False))
            continue
        print_quote(row, tuned.template, "tuned" if beside else "")
        if beside:
            print_quote(beside[i], tuned.template, "base ")
        print()


def _ask() -> str:
    print("> ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip()


def _read_prompts(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8") as file:
            prompts = [line.strip() for line in file if line.strip()]
    except OSError as error:
        raise UsageError(
            f"cannot read {path}: {error.strerror}", "--prompts takes a text file with one prompt a line"
        ) from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 (byte {error.start})", "Save it as UTF-8") from None
    if not prompts:
        raise UsageError(f"{path} holds no prompt", "Write one prompt a line")
    return prompts
