"""Where the rows and the base of a run lie now: config.yaml names them as they were named when it was trained.

A relative name was meant from the folder that the run was started in, and a run is moved with what lies beside it. So a
name that leads nowhere from here is looked for in each folder that the run lies in, from the innermost:

    data: quotes.csv                  /home/me/sayings/runs/first     ->  /home/me/sayings/quotes.csv
    data: /home/me/sayings/quotes.csv /mnt/disk/sayings/runs/first    ->  /mnt/disk/sayings/quotes.csv

A file of the same name that holds other rows, or another base, is refused by its digest like any other."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from florilegium.config import TrainConfig, as_dict, make_config
from florilegium.data import SAMPLE, looks_like_path
from florilegium.errors import DataError
from florilegium.runs.changes import WHERE_IT_LIES
from florilegium.storage.paths import tilde

BUNDLED = (SAMPLE, "seedling")


def found_again(config: TrainConfig, run: Path) -> TrainConfig:
    """`config` of the run in the folder `run`, with rows and base by the names that lead to them from here."""
    return make_config({**as_dict(config), **places(as_dict(config), run)})


def places(settings: Mapping[str, object], run: Path) -> dict[str, str]:
    """setting -> path in full, for rows and base whose name leads nowhere from here and which lie near the run."""
    named = {name: value for name in WHERE_IT_LIES if isinstance(value := settings.get(name), str)}
    return {name: place for name, value in named.items() if (place := _place(value, run))}


def refuse_lost(config: TrainConfig, run: Path) -> None:
    """Raises DataError where the rows of the run in the folder `run` are a file that is found nowhere."""
    if config.data not in BUNDLED and looks_like_path(config.data) and not os.path.exists(_expanded(config.data)):
        raise DataError(
            f"the data of {run} was not found: {config.data}",
            f"Resume in the folder that the run was started in, or set `data:` in {run}/config.yaml to its new path",
        )


def _place(name: str, run: Path) -> str:
    given = _expanded(name)
    if name in BUNDLED or os.path.lexists(given):
        return ""
    paths = (os.path.normpath(folder / tail) for folder in run.resolve().parents for tail in _tails(given))
    return next((tilde(path) for path in paths if os.path.exists(path)), "")


def _expanded(name: str) -> Path:
    return Path(os.path.expanduser(name))


def _tails(given: Path) -> Iterator[Path]:
    """A relative name itself; of a path in full its end, the longest first."""
    if not given.is_absolute():
        yield given
        return
    parts = given.parts[1:]
    yield from (Path(*parts[first:]) for first in range(1, len(parts)))
