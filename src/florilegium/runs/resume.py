"""A run that was stopped, resumed from its newest valid checkpoint: what `florilegium resume` and `florilegium.resume`
do. A finished run that is given more passes is the start of a new one (`start_from.py`).

    the run's config.yaml, with changes -> prepare -> the same rows and base? -> the checkpoint -> execute_run

Which settings may change on the way: `runs/changes.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from florilegium.config import as_dict, current_settings, dump_config, read_run_config
from florilegium.errors import DataError, ModelError, UsageError
from florilegium.model import base_facts, fast_paths
from florilegium.model.adapter_config import adapted_modules
from florilegium.model.identity import BaseFacts
from florilegium.model.untrusted import read_json
from florilegium.runs.changes import REPACKS, Change, compare, identity, with_changes
from florilegium.runs.finish import Trained
from florilegium.runs.follow import follow
from florilegium.runs.launcher import one_training_at_a_time
from florilegium.runs.manifest import RunManifest
from florilegium.runs.moved import found_again, refuse_lost
from florilegium.runs.prepare import Prepared, prepare
from florilegium.runs.processes import card_room
from florilegium.runs.recorder import NullView, ProgressView, forget_after
from florilegium.runs.setup import make_ready
from florilegium.runs.train import execute_run, train
from florilegium.storage.atomic_files import append_line, write_text
from florilegium.storage.atomic_folders import sweep
from florilegium.storage.paths import quoted
from florilegium.storage.run_directory import RUNS, RunDirectory, find_run
from florilegium.storage.run_lock import locked, refuse_links
from florilegium.tokens.batch_order import TILE
from florilegium.training import (
    Distributed,
    Snapshot,
    joined,
    load_checkpoint,
    move_newer_aside,
    newest_valid,
    settings_of,
    watch,
)


def resume(run: str | Path = "latest", *, view: ProgressView | None = None, **settings: Any) -> Trained:
    """Resumes a run that was stopped, from its newest valid checkpoint, to the same bits as if it had not been.

    `settings` change what may change on the way (`runs/changes.py`: the learning rate, the number of steps, the device,
    ...); each change is said and written to events.jsonl. Raises UsageError when there is nothing to go on with or a
    setting cannot change, DataError or ModelError when rows or base are others than before."""
    view = view or NullView()
    if _is_to_go_further(str(run), settings):
        return train(view=view, start_from=str(run), **settings)
    found_run = unfinished(str(run))
    directory = found_run.path
    with (
        one_training_at_a_time(view),
        watch() as stop,
        fast_paths.compiling_ahead(),
        joined(device_of(found_run, settings)) as distributed,
        locked(directory) if distributed.is_first else contextlib.nullcontext(),
    ):
        refuse_links(directory)
        if found_run.has_adapter:
            raise UsageError(
                f"{directory} is finished",
                f"Train it further: florilegium train --from {quoted(directory)} --epochs 3; "
                f"or use it: florilegium generate --run {quoted(directory)}",
            )
        written = read_run_config(found_run.config)
        config = found_again(with_changes(written, settings, str(found_run.config)), directory)
        manifest = read_manifest_of_run(found_run)
        found: tuple[Path | None, list[str]] = (None, [])
        if manifest and distributed.is_first:
            found = newest_valid(found_run.checkpoints, identity(manifest, config))
        if name := distributed.first_of_all(found[0].name if found[0] else ""):
            found = found_run.checkpoints / name, found[1]
        before = settings_of(found[0]) if found[0] else as_dict(with_changes(written, {}, ""))
        changes = compare(before, config) + _other_processes(manifest, distributed)
        room = card_room(config, distributed)
        refuse_lost(config, directory)
        with distributed.first_then_others():
            prepared = prepare(config, view if distributed.is_first else NullView(), None, distributed, room)
            if "kernels" not in current_settings(settings):
                # config.yaml names those that were chosen: one that this card or plan cannot take is left out
                prepared = replace(prepared, requested_kernels="auto")
            if manifest:
                _check_same(manifest, prepared, directory)
                # runs of earlier versions say nothing, and filled single tiles whatever the number of rows
                prepared = replace(prepared, tile=manifest.tile or TILE)
            if found[0] is not None:
                prepared = replace(prepared, adapter_on=adapted_modules(found[0] / "adapter.safetensors"))
        ready = make_ready(prepared, resumes=found[0] is not None, distributed=distributed)
        if not distributed.is_first:
            return follow(ready, found_run, stop, _read_snapshot(found[0], changes), distributed)
        snapshot = _take_up(found_run, view, *found, changes)
        write_text(found_run.config, dump_config(ready.plan.config))
        return execute_run(ready, found_run, view, stop, snapshot, distributed)


def device_of(run: RunDirectory, settings: Mapping[str, object]) -> str:
    """The device that a run is resumed on: as the settings have it, or as it was."""
    return str(settings.get("device") or read_run_config(run.config).get("device", "auto"))


def _other_processes(manifest: RunManifest | None, distributed: Distributed) -> list[Change]:
    """Another number of processes changes no step but the order in which it is summed, and without fused blocks what a GPU drops."""
    before = (manifest.processes or 1) if manifest else distributed.world
    return [Change("processes", before, distributed.world)] if before != distributed.world else []


def _is_to_go_further(name: str, settings: Mapping[str, Any]) -> bool:
    """Whether a finished run is to be trained longer: then a new run starts from it."""
    if name == "latest" or not {"epochs", "max_steps"} & current_settings(settings).keys():
        return False
    return RunDirectory(find_run(name)).check().has_adapter


def _take_up(
    run: RunDirectory, view: ProgressView, checkpoint: Path | None, skipped: list[str], changes: list[Change]
) -> Snapshot | None:
    """The checkpoint as a snapshot, the way behind it cleared; what was skipped or changed is said and written down."""
    snapshot = _read_snapshot(checkpoint, changes)
    step = snapshot.progress.step if snapshot else 0
    aside = move_newer_aside(run.checkpoints, step if snapshot else -1)
    sweep(run.path)
    forget_after(run, step if snapshot else -1, is_evaluated=snapshot is None or snapshot.progress.is_evaluated)
    begins = f"resuming at step {step}" if checkpoint else "no valid checkpoint found; starting from step 0"
    for line in [*skipped, *aside, begins, *map(str, changes)]:
        view.say(line)
        append_line(run.events, {"step": step, "event": line})
    return snapshot


def _read_snapshot(checkpoint: Path | None, changes: list[Change]) -> Snapshot | None:
    snapshot = load_checkpoint(checkpoint) if checkpoint else None
    if snapshot and any(change.name in REPACKS for change in changes):
        snapshot.pack = {}
    return snapshot


def unfinished(name: str) -> RunDirectory:
    """The run to go on with; `latest` is the newest that has no adapter yet."""
    if name == "latest":
        runs = [RunDirectory(path) for path in RUNS.glob("*") if path.is_dir()]
        waiting = [run for run in runs if run.is_run and not run.adapter.is_dir()]
        if not waiting:
            raise UsageError("no run in runs/ is unfinished", "Name one: florilegium resume runs/NAME")
        return max(waiting, key=lambda run: run.config.stat().st_mtime)
    return RunDirectory(find_run(name)).check()


def read_manifest_of_run(run: RunDirectory) -> RunManifest | None:
    """manifest.json of a run, whose digests tell whether rows and base are still the same; None when the run was
    stopped before it was written. Raises UsageError when it cannot be read."""
    path = run.manifest
    if not path.exists():
        return None
    try:
        found = read_json(path, str(path))
        if _is_tile(found.get("tile", TILE)):
            return RunManifest.from_json(found)
    except (ModelError, ValueError):
        pass
    fix = f"Start a new run: florilegium train --config {quoted(run.config)}"
    raise UsageError(f"{path} is damaged, so it is impossible to check that data and base are unchanged", fix)


def _is_tile(value: object) -> bool:
    return isinstance(value, int) and value >= TILE and value % TILE == 0


def _of_a_base(facts: BaseFacts) -> Mapping[str, object]:
    """What must be the same; a run of an earlier version does not know what its base was quantised from, and the folder
    of a base may have another name by now."""
    return {name: value for name, value in facts.to_json().items() if name not in ("original_digest", "name")}


def _check_same(manifest: RunManifest, prepared: Prepared, directory: Path) -> None:
    if manifest.data.digest != prepared.rows.digest:
        raise DataError(
            f"the data in {prepared.config.data} has changed since run {directory} started",
            "Restore the original file, or start a new run",
        )
    if _of_a_base(manifest.base) != _of_a_base(base_facts(prepared.base)):
        raise ModelError(
            f"the base model {prepared.config.model} has changed since run {directory} started",
            "Restore the original files, or start a new run",
        )
