"""Which of a run's processes this one is, from the variables that torchrun and `accelerate launch` set.

    RANK  WORLD_SIZE  LOCAL_RANK    this process among all, how many there are, this process on its machine
    MASTER_ADDR  MASTER_PORT        where they meet (torch reads these itself)

No launcher, or one process: rank 0 of 1. Nothing here imports torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from florilegium.errors import UsageError

_LAUNCH = "Start the processes with: florilegium train --gpus N, or torchrun"


@dataclass(frozen=True)
class ProcessPlace:
    rank: int = 0
    world: int = 1
    local_rank: int = 0


def read_place(environment: Mapping[str, str] | None = None) -> ProcessPlace:
    """This process's place. Raises UsageError for variables that contradict each other."""
    given = os.environ if environment is None else environment
    world = _number(given, "WORLD_SIZE", 1)
    if world <= 1:
        return ProcessPlace()
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if not given.get(name)]
    if missing:
        raise UsageError(f"WORLD_SIZE is {world}, but {' and '.join(missing)} not set", _LAUNCH)
    rank, local_rank = _number(given, "RANK", 0), _number(given, "LOCAL_RANK", 0)
    if rank >= world:
        raise UsageError(f"RANK is {rank}, and WORLD_SIZE {world}", _LAUNCH)
    return ProcessPlace(rank, world, local_rank)


def is_first_process() -> bool:
    """Whether this process is the one that prints: rank 0, also where the variables make no sense."""
    try:
        return read_place().rank == 0
    except UsageError:
        return True


def _number(given: Mapping[str, str], name: str, otherwise: int) -> int:
    text = given.get(name) or str(otherwise)
    if not text.isdecimal():
        raise UsageError(f"{name} is {text!r}", f"{_LAUNCH}; or unset {name}")
    return int(text)
