"""Flags out of the config's fields, and the config out of flags and file: `config/settings.py` is the only list of
settings."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Mapping
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, get_type_hints

from florilegium.cli.translate import translate_settings
from florilegium.config import TrainConfig, current_settings, make_config, read_config
from florilegium.config.checks import each_checked
from florilegium.config.processes import read_place
from florilegium.errors import UsageError
from florilegium.runs.start_from import inherited_settings

COMMON = (
    "data", "model", "template", "bits", "epochs", "max_steps", "batch_size", "learning_rate", "lora_rank",
    "max_length", "loss_on", "held_out", "memory", "seed", "output", "config", "json", "help", "help_all",
)  # fmt: skip


class _Once(argparse.Action):
    """DATA or `--data FILE`, RUN or `--run RUN`: one of them, not both."""

    def __call__(
        self, parser: argparse.ArgumentParser, flags: argparse.Namespace, value: object, option: str | None = None
    ) -> None:
        before = getattr(flags, self.dest, value)
        if before != value:
            raise UsageError(f"{self.dest.upper()} is given twice: {before} and {value}", "Leave one of them out")
        setattr(flags, self.dest, value)


def add_run(parser: argparse.ArgumentParser, help: str) -> None:
    """RUN, or `--run RUN`, which people type by habit; `given_run` says which run was named."""
    parser.add_argument("run", nargs="?", default=argparse.SUPPRESS, metavar="RUN", help=help, action=_Once)
    parser.add_argument("-r", "--run", dest="run", default=argparse.SUPPRESS, help=argparse.SUPPRESS, action=_Once)


def given_run(flags: argparse.Namespace) -> str:
    """The run that was named; the newest one where none was."""
    return str(getattr(flags, "run", "latest"))


def add_config_flags(parser: argparse.ArgumentParser, only: Collection[str] = (), hidden: Collection[str] = ()) -> None:
    """A flag for each field of TrainConfig (or of those in `only`), grouped, with its default in the help. DATA stands
    alone. Those in `hidden` are understood, and not shown."""
    hints = get_type_hints(TrainConfig)
    groups: dict[str, argparse._ArgumentGroup] = {}
    for f in fields(TrainConfig):
        if only and f.name not in only:
            continue
        if f.name == "data":
            _add_data(parser, f.metadata)
            continue
        name = f.metadata["group"]
        if name not in groups:
            groups[name] = parser.add_argument_group(name)
        _add_flag(groups[name], f, hints[f.name], f.name in hidden)


def _add_data(parser: argparse.ArgumentParser, meta: Mapping[str, Any]) -> None:
    parser.add_argument("data", nargs="?", default=argparse.SUPPRESS, metavar="DATA", help=meta["help"], action=_Once)
    parser.add_argument("--data", dest="data", default=argparse.SUPPRESS, help=argparse.SUPPRESS, action=_Once)


def _add_flag(group: argparse._ArgumentGroup, f: Field[object], hint: type, is_hidden: bool) -> None:
    is_switch = bool in getattr(hint, "__args__", (hint,))
    meta, flag = f.metadata, f.metadata["flag"] or "--" + f.name.replace("_", "-")
    shown = meta["help"] if f.default is None or is_switch else f"{meta['help']} ({f.default})"
    help = argparse.SUPPRESS if is_hidden else shown.replace("%", "%%")
    if is_switch:
        group.add_argument(flag, dest=f.name, action="store_true", default=argparse.SUPPRESS, help=help)
        off = "--no-" + flag[2:]  # over a --config file that turns it on
        group.add_argument(off, dest=f.name, action="store_false", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        return
    kinds = getattr(hint, "__args__", (hint,))
    kind = next(t for t in kinds if t is not type(None))
    if type(None) in kinds and kind is not str:
        kind = _or_auto(kind)
    # The values are checked by `make_config`, which knows those of earlier versions too.
    taken = "{" + ",".join(map(str, meta["choices"])) + "}" if meta["choices"] else meta["metavar"] or "N"
    group.add_argument(flag, dest=f.name, type=kind, default=argparse.SUPPRESS, help=help, metavar=taken)
    if meta["flag"]:  # the setting's own name, as a file has it
        name = "--" + f.name.replace("_", "-")
        group.add_argument(name, dest=f.name, type=kind, default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def _or_auto(kind: Callable[[str], object]) -> Callable[[str], object]:
    """`kind`, or None for "auto": the setting's own default."""

    def read(text: str) -> object:
        return None if text == "auto" else kind(text)

    read.__name__ = getattr(kind, "__name__", "number")  # argparse names it where a value is refused
    return read


def add_gpus(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--gpus", type=int, metavar="N", help="train on N GPUs of this machine, a process each (torchrun); default: 1"
    )


def is_to_launch(flags: argparse.Namespace) -> bool:
    """Whether `--gpus` asks for processes that are not there yet. Raises UsageError where a launcher started others."""
    if flags.gpus is None:
        return False
    world = read_place().world
    if world > 1 and world != flags.gpus:
        raise UsageError(f"--gpus is {flags.gpus}, but {world} processes were started", "Leave --gpus out")
    return world == 1 and flags.gpus != 1


def given_settings(flags: argparse.Namespace) -> dict[str, object]:
    """The settings that were given as flags."""
    names = {f.name for f in fields(TrainConfig)}
    return {name: value for name, value in vars(flags).items() if name in names}


def config_from_flags(flags: argparse.Namespace) -> TrainConfig:
    """Defaults, then the file of --config, then the flags that were given. Raises UsageError."""
    given, path = given_settings(flags), getattr(flags, "config", None)
    if not path:
        return make_config(inherited_settings(given))
    written = translate_settings(read_config(Path(path)), path)
    # a mistake in the file is told as the file's; together they are checked with the flags, which win
    each_checked(written, f"{path}: ")
    return make_config(inherited_settings(current_settings(written) | given))
