"""The command line as argparse sees it: the commands, their flags and their help. What each does is in `cli.py`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, NoReturn

from florilegium.cli.flags import add_config_flags
from florilegium.config import RENAMED, TrainConfig
from florilegium.errors import UsageError, nearest

INSPECT_SETTINGS = (
    "data", "template", "skip_bad_rows", "fix_encoding", "held_out", "split_by", "max_length", "loss_on", "model", "revision", "seed",
)  # fmt: skip


class Parser(argparse.ArgumentParser):
    """argparse that raises UsageError, and names the nearest flag or command for one that it does not know."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, f"See: {self.prog} --help")

    def parse_known(self, arguments: Sequence[str]) -> argparse.Namespace:
        values, unknown = self.parse_known_args([_kebab(a) for a in arguments])
        if unknown:
            flags = [flag for p in (self, *_subparsers(self, values)) for flag in p._option_string_actions]
            name = unknown[0].split("=")[0]  # without its value: it may be a token
            raise UsageError(f"unknown argument {name!r}", nearest(name, flags) or f"See: {self.prog} --help")
        return values


def _kebab(argument: str) -> str:
    """`--learning_rate` is `--learning-rate`: people paste from elsewhere."""
    if not argument.startswith("--"):
        return argument
    name, *value = argument.split("=", 1)
    key = name.removeprefix("--").replace("-", "_")
    return "=".join(["--" + RENAMED.get(key, key).replace("_", "-"), *value])


def _subparsers(parser: argparse.ArgumentParser, values: argparse.Namespace) -> list[argparse.ArgumentParser]:
    found = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    return [found[0].choices[values.command]] if found and getattr(values, "command", None) else []


def build_parser() -> Parser:
    """The whole command line, as argparse."""
    parser = Parser(
        prog="florilegium",
        description="Fine-tune BLOOM on your own sayings, on one GPU or none, and know what it learned.",
        epilog="Start with `florilegium train`: it needs nothing. Exit codes: 0 done, 2 usage, 3 data, 4 model, 5 memory or disk, "
        "6 diverged, 130 and 143 stopped by a signal after saving.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help="print the version and leave")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    _add_train(commands)
    _add_generate(commands)
    _add_evaluate(commands)
    _add_inspect(commands)
    report = _command(
        commands,
        "report",
        "write a run's page anew, or compare two runs",
        "florilegium report",
        "florilegium report runs/A runs/B",
    )
    report.add_argument("run", nargs="?", default="latest", metavar="RUN", help="a run's folder or name, or 'latest'")
    report.add_argument("other", nargs="?", metavar="RUN_B", help="a second run, to compare")
    report.add_argument("--output", metavar="FILE", help="where the comparison's page goes (comparison.html)")
    _add_resume(commands)
    completion = _command(
        commands, "completion", "print a completion script for your shell", "florilegium completion bash >> ~/.bashrc"
    )
    completion.add_argument("shell", choices=["bash", "zsh", "tcsh"])
    return parser


def _command(commands: Any, name: str, help: str, *examples: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        epilog="examples:\n" + "\n".join(f"  {e}" for e in examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_argument("--json", action="store_true", help="results as JSON on stdout, all else on stderr")
    command.add_argument("--debug", action="store_true", help="show the traceback of an expected failure")
    return command


def _add_train(commands: Any) -> None:
    train = _command(
        commands,
        "train",
        "tune a model on quotes with tags",
        "florilegium train",
        "florilegium train quotes.jsonl --model bigscience/bloom-560m",
        'florilegium train poems.csv --template "{poem} ->: {mood}" --epochs 5',
    )
    train.add_argument("--config", metavar="FILE", help="settings in YAML; flags win over it")
    train.add_argument(
        "--print-config", action="store_true", help="print the settings as a file that --config reads, and leave"
    )
    add_config_flags(train)


def _add_resume(commands: Any) -> None:
    resume = _command(
        commands,
        "resume",
        "go on with a run that was stopped",
        "florilegium resume latest",
        "florilegium resume runs/NAME --learning-rate 1e-4 --max-steps 500",
    )
    resume.add_argument(
        "run", nargs="?", default="latest", help="a run's folder or name; default: the newest unfinished one"
    )
    add_config_flags(resume, only=[f.name for f in fields(TrainConfig) if f.name not in ("data", "output", "force")])


def _add_generate(commands: Any) -> None:
    generate = _command(
        commands,
        "generate",
        "write quotes with a tuned model",
        "florilegium generate",
        'florilegium generate "The sea" -n 5 --temperature 0.7',
        'florilegium generate --tags "A lamp does not argue with the dark."',
        "florilegium generate --prompts openings.txt --json > quotes.jsonl",
    )
    generate.add_argument(
        "prompt", nargs="?", metavar="PROMPT", help="how the quote begins; left out, the model begins by itself"
    )
    generate.add_argument("--run", default="latest", metavar="RUN", help="a run, an adapter folder, or 'latest'")
    generate.add_argument("--model", metavar="MODEL", help="where the base model lies, if it has moved")
    generate.add_argument("-n", type=int, default=3, metavar="N", help="texts for each prompt (3)")
    generate.add_argument("--prompts", metavar="FILE", help="a file with a prompt a line")
    generate.add_argument("--tags", action="store_true", help="PROMPT is a whole quote: write its tags")
    generate.add_argument("--interactive", action="store_true", help="ask for prompts until an empty line ends it")
    generate.add_argument("--base", action="store_true", help="beside each text, what the untuned model writes")
    generate.add_argument(
        "--novel-only",
        action="store_true",
        help="draw again what copies a training row; leave out what goes on copying",
    )
    generate.add_argument("--temperature", type=float, metavar="X", help="0 takes the likeliest token (0.7)")
    generate.add_argument(
        "--top-p", type=float, metavar="X", help="keep the likeliest tokens that hold this share (0.9)"
    )
    generate.add_argument("--top-k", type=int, metavar="N", help="keep the N likeliest tokens; 0: all (0)")
    generate.add_argument(
        "--repetition-penalty", type=float, metavar="X", help="above 1, what was said is less likely again (1)"
    )
    generate.add_argument("--max-new-tokens", type=int, metavar="N", help="stop there at the latest (100)")
    generate.add_argument("--seed", type=int, metavar="N", help="same seed, same texts (0)")
    _add_where_it_runs(generate)


def _add_where_it_runs(command: Any) -> None:
    command.add_argument(
        "--bits", type=int, choices=[8, 4, 16, 32], help="how the base is held; default: as it was trained"
    )
    command.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")


def _add_evaluate(commands: Any) -> None:
    evaluate = _command(
        commands,
        "evaluate",
        "say in figures what a run learned, what it forgot and what it copies",
        "florilegium evaluate --base",
        "florilegium evaluate runs/NAME --base --general my_own_texts.txt",
    )
    evaluate.add_argument("run", nargs="?", default="latest", metavar="RUN", help="a run's folder or name, or 'latest'")
    evaluate.add_argument("--base", action="store_true", help="the untuned model too, side by side")
    evaluate.add_argument("--data", metavar="DATA", help="where the run's rows lie, if they have moved")
    evaluate.add_argument("--model", metavar="MODEL", help="where the base model lies, if it has moved")
    evaluate.add_argument(
        "--general", metavar="FILE", help="general text to see by what was forgotten; default: a page of ours"
    )
    evaluate.add_argument("--generations", type=int, default=200, metavar="N", help="free texts to write (200)")
    evaluate.add_argument(
        "--rows", type=int, default=500, metavar="N", help="use at most about so many held-out rows (500)"
    )
    evaluate.add_argument("--seed", type=int, default=0, metavar="N", help="of the free texts (0)")
    _add_where_it_runs(evaluate)


def _add_inspect(commands: Any) -> None:
    inspect = _command(
        commands,
        "inspect",
        "show what DATA holds, what is wrong with it, and how it will be trained",
        "florilegium inspect quotes.jsonl",
        "florilegium inspect quotes.csv --fix-encoding --split-by author",
    )
    add_config_flags(
        inspect,
        only=(
            "data",
            "template",
            "skip_bad_rows",
            "fix_encoding",
            "split_by",
            "max_length",
            "loss_on",
            "held_out",
            "model",
            "revision",
            "seed",
        ),
    )
