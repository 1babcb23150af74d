"""The state of an optimiser and of torch's generators, as a checkpoint holds it: tensors by name, and the rest as JSON.

optimizer.state_dict() -> flatten -> tensors `<parameter>.<name>`, and the numbers and groups that are none
                          unflatten -> the same state_dict again"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypedDict

import torch
from torch.optim.optimizer import StateDict


class StateNumbers(TypedDict):
    """What of an optimiser's state are no tensors: under `optimizer` in state.json."""

    numbers: dict[str, object]
    groups: list[StateDict]


def flatten(state: StateDict) -> tuple[dict[str, torch.Tensor], StateNumbers]:
    """An optimiser's state_dict as tensors named `<parameter>.<name>` and the rest as JSON."""
    tensors: dict[str, torch.Tensor] = {}
    numbers: dict[str, object] = {}
    for index, values in state["state"].items():
        for name, value in _leaves(values):
            if isinstance(value, torch.Tensor):
                tensors[f"{index}.{name}"] = value
            else:
                numbers[f"{index}.{name}"] = value
    return tensors, {"numbers": numbers, "groups": state["param_groups"]}


def _leaves(values: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """Names and values; bitsandbytes keeps its quantisation state in a dict of its own, whose names get that dict's
    before a slash."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from ((f"{name}/{inner}", leaf) for inner, leaf in value.items())
        else:
            yield name, value


def unflatten(tensors: Mapping[str, torch.Tensor], rest: StateNumbers) -> StateDict:
    """What `flatten` took apart."""
    state: dict[int, StateDict] = {}
    for key, value in [*tensors.items(), *rest["numbers"].items()]:
        index, name = key.split(".", 1)
        home = state.setdefault(int(index), {})
        if "/" in name:
            outer, name = name.split("/", 1)
            home = home.setdefault(outer, {})
        home[name] = value
    groups = [{**g, "betas": tuple(g["betas"])} for g in rest["groups"]]
    return {"state": state, "param_groups": groups}


def random_states(device: torch.device) -> dict[str, torch.Tensor]:
    """torch's generators, of the CPU and of the device."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_random_states(states: Mapping[str, torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
