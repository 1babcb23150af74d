"""Flags out of the config's fields, and the config out of flags and file: `config.py` is the only list of settings."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

from florilegium.config import TrainConfig, current_settings, make_config, read_config


def add_config_flags(parser: argparse.ArgumentParser, only: Collection[str] = ()) -> None:
    """A flag for each field of TrainConfig (or of those in `only`), grouped, with its default in the help. DATA stands
    alone."""
    hints = get_type_hints(TrainConfig)
    groups: dict[str, Any] = {}
    for f in fields(TrainConfig):
        if only and f.name not in only:
            continue
        if f.name == "data":
            parser.add_argument("data", nargs="?", default=argparse.SUPPRESS, metavar="DATA", help=f.metadata["help"])
            continue
        group = groups.get(f.metadata["group"]) or groups.setdefault(
            f.metadata["group"], parser.add_argument_group(f.metadata["group"])
        )
        _add_flag(group, f.name, hints[f.name], f.default, f.metadata)


def _add_flag(group: Any, name: str, hint: Any, default: Any, meta: Any) -> None:
    flag = "--" + name.replace("_", "-")
    if hint is bool:
        group.add_argument(
            flag, dest=name, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=meta["help"]
        )
        return
    kind = next(t for t in getattr(hint, "__args__", (hint,)) if t is not type(None))
    shown = meta["help"] if default is None else f"{meta['help']} ({default})"
    # The values are checked by `make_config`, which knows those of earlier versions too.
    taken = "{" + ",".join(map(str, meta["choices"])) + "}"
    options: dict[str, Any] = {"metavar": taken if meta["choices"] else kind.__name__.upper()[0]}
    group.add_argument(flag, dest=name, type=kind, default=argparse.SUPPRESS, help=shown.replace("%", "%%"), **options)


def config_from_flags(flags: argparse.Namespace) -> TrainConfig:
    """Defaults, then the file of --config, then the flags that were given. Raises UsageError."""
    names = {f.name for f in fields(TrainConfig)}
    given = {name: value for name, value in vars(flags).items() if name in names}
    path = getattr(flags, "config", None)
    if not path:
        return make_config(given)
    written = read_config(Path(path))
    make_config(written, source=path)  # so that a mistake in the file is told as the file's
    return make_config(current_settings(written) | given)
