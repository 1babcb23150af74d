"""What an adapter's files say of where it comes from, and what a person should hear before using it.

An adapter of florilegium remembers its base by digest. One that others made names it at most, and may name a path of
their machine: whether the base at hand is the one can then not be known, and is said."""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch

from florilegium.errors import UsageError
from florilegium.model.adapter_facts import AdapterFacts
from florilegium.model.untrusted import read_json


def base_name(folder: Path, facts: AdapterFacts, given: str | None) -> str:
    """The base to load: what was given, what florilegium.json names, or what adapter_config.json names. Raises
    UsageError where none of them says it."""
    name = given or where_it_lies(facts, folder) or named_by_peft(folder)
    if not name:
        raise UsageError(f"{folder} does not say which base it is for", "Name it with --model")
    here = (
        given or not facts.is_empty or os.path.isdir(os.path.expanduser(name)) or re.fullmatch(r"[\w.-]+/[\w.-]+", name)
    )
    if not here:
        raise UsageError(
            f"the adapter in {folder} names {name[:200]} as its base, which is not on this machine",
            "Name its base with --model",
        )
    return str(name)


def where_it_lies(facts: AdapterFacts, folder: Path) -> str:
    """The base that florilegium.json names, or an empty string; where that is a path that leads nowhere from here, the
    same in full, as adapter_config.json has it: a run is used from other folders than the one it was trained in."""
    name = facts.base.name or ""
    if not facts.base_is_local or name == "seedling" or os.path.exists(os.path.expanduser(name)):
        return name
    full = named_by_peft(folder)
    return full if os.path.isabs(full) and os.path.isdir(full) else name


def named_by_peft(folder: Path) -> str:
    """`base_model_name_or_path` of adapter_config.json, or an empty string."""
    path = folder / "adapter_config.json"
    values = read_json(path, f"the adapter_config.json in {folder}") if path.is_file() else {}
    name = values.get("base_model_name_or_path")
    return name if isinstance(name, str) and "\0" not in name and len(name) <= 4096 else ""


def origin_notes(folder: Path, facts: AdapterFacts, name: str, model: torch.nn.Module) -> tuple[str, ...]:
    """What is to be said of the adapter in `folder`, that was put on the base `name`."""
    notes = []
    named = named_by_peft(folder) if facts.is_empty else ""
    if named and _last(named) != _last(name):
        notes.append(
            f"the adapter in {folder} names {named[:200]} as its base, and {name} was given: only their shapes could be "
            "compared"
        )
    if _changes_nothing(model):
        notes.append(f"every B matrix of the adapter in {folder} is zero: it changes nothing")
    return tuple(notes)


def _last(name: str) -> str:
    """`D:\\Model\\bloom-560m/` and `bigscience/bloom-560m` end alike."""
    return re.split(r"[\\/]", name.rstrip("\\/"))[-1].lower()


def _changes_nothing(model: torch.nn.Module) -> bool:
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    outputs = [tensor for key, tensor in state.items() if re.search(r"lora_(embedding_)?B", key)]
    inputs = [key for key in state if re.search(r"lora_(embedding_)?A", key)]
    others = len(state) - len(outputs) - len(inputs)  # whole modules, biases, magnitudes: they change something
    return not others and not any(bool(tensor.any()) for tensor in outputs)
