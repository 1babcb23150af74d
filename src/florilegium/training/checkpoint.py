"""Checkpoints: everything needed to stop and go on with the same bits, and a way of writing them that a crash cannot spoil.

    checkpoints/step-00000100/
        adapter.safetensors      the adapter's weights now, and under best.* the best ones so far
        optimizer.safetensors    the optimiser's state, a tensor a parameter and name
        random.safetensors       torch's random states
        state.json               step, schedule, best loss, numbers of the optimiser that are not tensors
        manifest.json            sha256 and size of each file above; written last

A checkpoint is written in a folder with another name, each file flushed to disk, the manifest last, then renamed: what has the name of
a checkpoint is whole. A reader checks every sum and takes the newest that is right, and says which it skipped and why. There is no
pickle in it. The older ones go only after the newer is in place.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from florilegium.errors import DivergedError, ModelError
from florilegium.run import disk_errors, sync_folder

MANIFEST = "manifest.json"


@dataclass
class Progress:
    """Where the training stands. `step` counts the optimiser steps done; order of rows, packing and rate follow from it."""

    step: int = 0
    tokens: int = 0
    elapsed_seconds: float = 0.0
    best_loss: float | None = None
    best_step: int = 0
    looks_since_best: int = 0
    last_eval_loss: float | None = None
    first_eval_loss: float | None = None


@dataclass
class Snapshot:
    """A checkpoint in memory."""

    progress: Progress
    adapter: dict[str, torch.Tensor]
    best: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    random: dict[str, torch.Tensor] = field(default_factory=dict)


def save_checkpoint(folder: Path, snapshot: Snapshot, keep: int) -> Path:
    """Writes `folder/step-NNNNNNNN`, then removes all but the newest `keep`. Raises ResourceError, or DivergedError rather than
    save a number that is none."""
    from safetensors.torch import save_file

    for name, tensor in snapshot.adapter.items():
        if not torch.isfinite(tensor).all():
            raise DivergedError(f"{name} holds a number that is none at step {snapshot.progress.step}", "Lower --learning-rate")
    final = folder / f"step-{snapshot.progress.step:08d}"
    temporary = folder / f".{final.name}.{os.getpid()}"
    with disk_errors(final):
        folder.mkdir(exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            save_file(snapshot.adapter | {f"best.{k}": v for k, v in snapshot.best.items()}, temporary / "adapter.safetensors")
            tensors, numbers = _flatten(snapshot.optimizer)
            save_file(tensors, temporary / "optimizer.safetensors")
            save_file(snapshot.random, temporary / "random.safetensors")
            state = {"progress": vars(snapshot.progress), "schedule": snapshot.schedule, "optimizer": numbers}
            (temporary / "state.json").write_text(json.dumps(state), encoding="utf-8")
            _seal(temporary)
            if final.exists():
                shutil.rmtree(final)
            temporary.rename(final)
            sync_folder(folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    for old in checkpoints(folder)[keep:]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def _seal(folder: Path) -> None:
    """Flushes every file to disk and writes the manifest."""
    sums = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        sums[path.name] = {"sha256": _sha256(path), "bytes": path.stat().st_size}
    with (folder / MANIFEST).open("w", encoding="utf-8") as file:
        json.dump(sums, file)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(folder)


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, newest first, whole or not."""
    return sorted((p for p in folder.glob("step-*") if p.is_dir() and p.name[5:].isdigit()), reverse=True)


def fault(checkpoint: Path) -> str:
    """What is wrong with a checkpoint, or an empty string when every file is there with its sum."""
    try:
        sums = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        for name, entry in sums.items():
            path = checkpoint / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != entry["bytes"] or _sha256(path) != entry["sha256"]:
                return f"{name} is damaged"
        state = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
        if state["progress"]["step"] != int(checkpoint.name[5:]):
            return "it is another step's"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "its manifest cannot be read"
    return ""


def newest_whole(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that is right, and a line on each newer one that was skipped."""
    skipped: list[str] = []
    for checkpoint in checkpoints(folder):
        what = fault(checkpoint)
        if not what:
            return checkpoint, skipped
        skipped.append(f"{checkpoint.name} skipped: {what}")
    return None, skipped


def load_checkpoint(checkpoint: Path) -> Snapshot:
    """Reads a checkpoint that `fault` found right. Raises ModelError."""
    from safetensors.torch import load_file

    try:
        tensors = load_file(checkpoint / "adapter.safetensors")
        state = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
        optimizer = _unflatten(load_file(checkpoint / "optimizer.safetensors"), state["optimizer"])
        random = load_file(checkpoint / "random.safetensors")
        progress = Progress(**state["progress"])
    except Exception as error:
        raise ModelError(f"{checkpoint} cannot be read ({error})", "Remove it: the one before it is taken then") from error
    best = {name[5:]: tensor for name, tensor in tensors.items() if name.startswith("best.")}
    adapter = {name: tensor for name, tensor in tensors.items() if not name.startswith("best.")}
    return Snapshot(progress, adapter, best, optimizer, state["schedule"], random)


def _flatten(state: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """An optimiser's state_dict as tensors named `<parameter>.<name>` and the rest as JSON."""
    tensors: dict[str, torch.Tensor] = {}
    numbers: dict[str, Any] = {}
    for index, values in state["state"].items():
        for name, value in _leaves(values):
            if isinstance(value, torch.Tensor):
                tensors[f"{index}.{name}"] = value.detach().to("cpu", copy=True).contiguous()
            else:
                numbers[f"{index}.{name}"] = value
    return tensors, {"numbers": numbers, "groups": state["param_groups"]}


def _leaves(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Names and values; bitsandbytes keeps its quantisation state in a dict of its own, whose names get that dict's before a slash."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from ((f"{name}/{inner}", leaf) for inner, leaf in value.items())
        else:
            yield name, value


def _unflatten(tensors: Mapping[str, torch.Tensor], rest: Mapping[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {}
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


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
