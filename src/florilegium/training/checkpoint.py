"""Checkpoints: everything needed to stop and go on with the same bits, and a way of writing them that a crash cannot
spoil.

    checkpoints/step-00000100/
        adapter.safetensors      the adapter's weights now, and under best.* the best ones so far
        optimizer.safetensors    the optimiser's state, a tensor a parameter and name
        random.safetensors       torch's random states
        state.json               step, schedule, best loss, numbers of the optimiser that are not tensors
        manifest.json            sha256 and size of each file above, the step, and whose it is: digests of base and rows, all settings

How such a folder reaches the disk, and what a reader believes, is told in `atomic_folders.py`. A checkpoint is taken
only under its own step's name and by the run that made it, the newest that is right, and what was skipped is said.
There is no pickle in it. The older ones go only after the newer is in place."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import StateDict

from florilegium.config import TrainConfig
from florilegium.errors import ModelError, ResourceError, reason_of
from florilegium.storage.atomic_files import disk_errors, free_bytes
from florilegium.storage.atomic_folders import (
    ChecksumMismatch,
    commit_folder,
    read_manifest,
    read_verified,
    remove_folder,
    sweep,
)
from florilegium.storage.json_record import JsonRecord
from florilegium.storage.library_errors import is_out_of_memory
from florilegium.storage.run_lock import set_aside
from florilegium.storage.safetensors_io import tensor_bytes, tensor_pieces
from florilegium.training.guards import check_snapshot
from florilegium.training.saved_state import flatten, unflatten

FORMAT = 2
CHECKPOINT_REST = 1 << 14  # headers, random states, state and manifest
FILES = ("adapter.safetensors", "optimizer.safetensors", "random.safetensors", "state.json")


IDENTITY = ("base_digest", "tokenizer_digest", "data_digest", "template")


@dataclass(frozen=True)
class RunIdentity(JsonRecord):
    """What a checkpoint's manifest says of the run that it belongs to."""

    base_digest: str | None
    tokenizer_digest: str | None
    data_digest: str
    template: str
    settings: Mapping[str, object]


@dataclass
class Progress:
    """Where the training stands. `step` counts the optimiser steps done; order of rows, packing and rate follow from
    it."""

    step: int = 0
    tokens: int = 0
    elapsed_seconds: float = 0.0
    best_loss: float | None = None
    best_step: int = 0
    evaluations_since_best: int = 0
    last_eval_loss: float | None = None
    first_eval_loss: float | None = None
    last_eval_step: int | None = None  # None in a checkpoint of an earlier version
    best_test_loss: float | None = None  # of the rows that are reported, at the best step; None where they chose it

    @property
    def reported_loss(self) -> float | None:
        """Of the adapter that is kept, on rows that did not choose it where there are some."""
        return self.best_loss if self.best_test_loss is None else self.best_test_loss

    @property
    def is_evaluated(self) -> bool:
        """Whether this step was. Of a checkpoint of an earlier version, which does not say, it is taken for granted."""
        if self.last_eval_step is None:
            return self.step > 0 or self.first_eval_loss is not None
        return self.last_eval_step == self.step


@dataclass
class Snapshot:
    """A checkpoint in memory."""

    progress: Progress
    adapter: dict[str, torch.Tensor]
    best: dict[str, torch.Tensor]
    optimizer: StateDict
    lr_scheduler: StateDict
    random: dict[str, torch.Tensor] = field(default_factory=dict)
    # how much is held at once, where memory ran out: PackPlan's names
    pack: dict[str, int] = field(default_factory=dict)


def save_checkpoint(folder: Path, snapshot: Snapshot, keep: int, whose: RunIdentity | None = None) -> Path:
    """Writes `folder/step-NNNNNNNN`, then removes all but the newest `keep` (this one always stays). `whose` goes into
    its manifest.

    Raises ResourceError when disk or memory runs out, or DivergedError rather than save a number that is none; the
    older ones stay."""
    check_snapshot(snapshot.progress.step, snapshot.adapter, snapshot.best, snapshot.optimizer)
    final = folder / f"step-{snapshot.progress.step:08d}"
    try:
        _commit(final, snapshot, whose)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise ResourceError(
            f"memory ran out while saving {final}", "The previous checkpoint is valid: type florilegium resume"
        ) from error
    _rotate(folder, final, keep)
    return final


def _commit(final: Path, snapshot: Snapshot, whose: RunIdentity | None) -> None:
    run = whose.to_json() if whose else {}
    adapter = snapshot.adapter | {f"best.{k}": v for k, v in snapshot.best.items()}
    tensors, numbers = flatten(snapshot.optimizer)
    progress = vars(snapshot.progress)
    state = json.dumps(
        {"progress": progress, "schedule": snapshot.lr_scheduler, "pack": snapshot.pack, "optimizer": numbers}
    ).encode()
    with disk_errors(final):
        final.parent.mkdir(exist_ok=True)
        if final.exists():
            if not find_problem(final, whose) and read_manifest(final).facts["run"] == run:
                return  # the same step of the same run with the same settings: the same bits
            set_aside(final)
    files = {
        "adapter.safetensors": tensor_pieces(adapter),
        "optimizer.safetensors": tensor_pieces(tensors),
        "random.safetensors": tensor_pieces(snapshot.random),
        "state.json": [state],
    }
    headers = 256 * (len(adapter) + len(tensors))
    needed = sum(map(tensor_bytes, (adapter, tensors, snapshot.random))) + len(state) + headers
    facts: dict[str, object] = {"format": FORMAT, "step": snapshot.progress.step, "run": run}
    commit_folder(final, files, facts, needed=needed)


def check_room(folder: Path, num_trained: int, config: TrainConfig) -> None:
    """Before the first step: a run whose checkpoints cannot fit would lose hours. Raises ResourceError that says what
    is needed.

    A checkpoint holds the adapter and the best one so far (float32), and two moments a parameter; all that are kept,
    the one being written, and the adapter at the end stand side by side."""
    moments = 8 if config.optimizer == "adamw" else 2
    needed = (config.keep_checkpoints + 1) * (num_trained * (8 + moments) + CHECKPOINT_REST) + num_trained * 4
    if needed > free_bytes(folder):
        fix = f"{needed / 1e6:.2f} MB are needed and {free_bytes(folder) / 1e6:.2f} MB are free: make room, or lower --keep-checkpoints"
        raise ResourceError(f"no room for checkpoints in {folder}", fix)


def _rotate(folder: Path, newest: Path, keep: int) -> None:
    """Removes the oldest ones. One that cannot be removed is left: the work is saved, and the next save tries again."""
    older = [path for path in checkpoints(folder) if path.name < newest.name]
    for path in older[keep - 1 :]:
        with contextlib.suppress(OSError):
            remove_folder(path)


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, newest first, whole or not."""
    return sorted((p for p in folder.glob("step-*") if p.is_dir() and p.name[5:].isdecimal()), reverse=True)


def find_problem(checkpoint: Path, whose: RunIdentity | None = None) -> str:
    """What is wrong with a checkpoint, or an empty string when it is whole, of its name's step, and (if given) of the
    run `whose`."""
    try:
        _read(checkpoint, whose)
    except ChecksumMismatch as error:
        return str(error)
    return ""


def _read(checkpoint: Path, whose: RunIdentity | None) -> dict[str, bytes]:
    facts = read_manifest(checkpoint).facts
    if facts.get("format") != FORMAT:
        raise ChecksumMismatch(f"its format is {facts.get('format')!r}, and this version reads {FORMAT}")
    if facts.get("step") != int(checkpoint.name[5:]):
        raise ChecksumMismatch(f"it is that of step {facts.get('step')}")
    found = facts.get("run")
    for name in IDENTITY if whose else ():
        if not isinstance(found, dict) or found.get(name) != getattr(whose, name):
            raise ChecksumMismatch(f"it belongs to another run: its {name.replace('_', ' ')} differs")
    return read_verified(checkpoint, FILES)


def newest_valid(folder: Path, whose: RunIdentity | None = None) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that is right, and a line on each newer one that was skipped."""
    skipped: list[str] = []
    for checkpoint in checkpoints(folder):
        what = find_problem(checkpoint, whose)
        if not what:
            return checkpoint, skipped
        skipped.append(f"{checkpoint.name} skipped: {what}")
    return None, skipped


def move_newer_aside(folder: Path, step: int) -> list[str]:
    """Before a run goes on from `step`: what a crash left is removed, and checkpoints beyond it (all of them were
    skipped) are set aside, where they neither stand in the way nor are lost. Returns a line on each."""
    if not folder.is_dir():
        return []
    sweep(folder)
    lines = []
    for path in checkpoints(folder):
        if int(path.name[5:]) > step:
            lines.append(f"{path.name} moved to {set_aside(path).name}")
    return lines


def load_checkpoint(checkpoint: Path) -> Snapshot:
    """Reads a checkpoint that `find_problem` found right. Raises ModelError."""
    from safetensors.torch import load

    try:
        data = _read(checkpoint, None)
        tensors = load(data["adapter.safetensors"])
        state = json.loads(data["state.json"])
        optimizer = unflatten(load(data["optimizer.safetensors"]), state["optimizer"])
        random = load(data["random.safetensors"])
        progress = Progress(**_current_names(state["progress"]))
        schedule, packing = state["schedule"], dict(state["pack"])
    except Exception as error:  # a whole one that another version wrote, or that somebody made up
        raise ModelError(
            f"{checkpoint} cannot be read ({reason_of(error, 300)})", "Remove it: the previous checkpoint is then used"
        ) from error
    best = {name[5:]: tensor for name, tensor in tensors.items() if name.startswith("best.")}
    adapter = {name: tensor for name, tensor in tensors.items() if not name.startswith("best.")}
    return Snapshot(progress, adapter, best, optimizer, schedule, random, packing)


def _current_names(progress: Mapping[str, float | None]) -> dict[str, Any]:
    """The fields of a checkpoint that an earlier version wrote, under their names of today."""
    return {("evaluations_since_best" if name == "looks_since_best" else name): v for name, v in progress.items()}


def settings_of(checkpoint: Path) -> dict[str, object]:
    """The settings that a whole checkpoint was made with."""
    match read_manifest(checkpoint).facts.get("run"):
        case {"settings": dict(settings)}:
            return settings
    return {}
