"""The runs that lie in a folder: listed, renamed, removed, their checkpoints pruned. Nothing here needs torch.

Whatever is removed belongs to a run (it has a config.yaml), is no link, and no process trains in it."""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from florilegium.config import read_config
from florilegium.errors import FlorilegiumError, UsageError
from florilegium.storage.atomic_files import disk_errors
from florilegium.storage.paths import slug
from florilegium.storage.run_directory import RUNS, RunDirectory, find_run
from florilegium.storage.run_lock import is_locked, locked

FINISHED, STOPPED, TRAINING = "finished", "stopped", "training"


@dataclass(frozen=True)
class RunSummary:
    """A line of `florilegium runs`. What a run does not say is None."""

    name: str
    path: str
    status: str
    date: str
    data: str | None
    model: str | None
    steps: int | None
    loss_before: float | None
    loss: float | None
    tag_f1: float | None
    bytes: int

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def list_runs(folder: Path = RUNS) -> list[RunSummary]:
    """The runs in `folder`, the oldest first."""
    if not folder.is_dir():
        return []
    with disk_errors(folder):
        runs = [RunDirectory(path) for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return [summarise(run) for run in sorted((r for r in runs if r.is_run), key=lambda r: r.config.stat().st_mtime)]


def summarise(run: RunDirectory) -> RunSummary:
    """What one run says of itself. A file that is missing or damaged leaves its part out."""
    manifest = run.read_manifest()
    f1: object = run.read_evaluation()
    for key in ("tuned", "written_tags", "micro_f1", "value"):
        f1 = f1.get(key) if isinstance(f1, dict) else None
    try:
        config = read_config(run.config)
    except FlorilegiumError:
        config = {}
    changed = datetime.fromtimestamp(run.config.stat().st_mtime)
    return RunSummary(
        name=run.path.resolve().name,
        path=str(run.path),
        status=status_of(run),
        date=f"{changed:%Y-%m-%d %H:%M}",
        data=_text(config.get("data")),
        model=_text(config.get("model")),
        steps=_whole(manifest.get("steps")),
        loss_before=_number(manifest.get("eval_loss_before")),
        loss=_number(manifest.get("eval_loss")),
        tag_f1=_number(f1),
        bytes=size_of(run.path),
    )


def status_of(run: RunDirectory) -> str:
    """`finished` where there is an adapter, `training` where a process holds the run, else `stopped`."""
    return TRAINING if is_locked(run.path) else FINISHED if run.has_adapter else STOPPED


def size_of(folder: Path) -> int:
    """Bytes of the files in `folder` and below, as far as they may be seen. Links are not followed."""
    total = 0
    for where, _, names in os.walk(folder):
        with contextlib.suppress(PermissionError):
            total += sum(os.lstat(os.path.join(where, name)).st_size for name in names)
    return total


def named_run(name: str) -> RunDirectory:
    """The run that `name` means. Raises ModelError for a folder that is none, UsageError for a link."""
    run = RunDirectory(find_run(name)).check()
    if run.path.is_symlink():
        raise UsageError(f"{run.path} is a symbolic link", "Name the folder that it leads to")
    return run


def rename_run(run: RunDirectory, name: str) -> Path:
    """Gives the run another name beside where it lies. Raises UsageError for a name that is taken or no name."""
    if slug(name) != name:
        raise UsageError(f"{name!r} is not a name for a run", f"Use letters, digits, '-' and '.', such as {slug(name)}")
    target = run.path.with_name(name)
    if target.exists() or target.is_symlink():
        raise UsageError(f"{target} is already there", "Choose another name")
    with locked(run.path), disk_errors(run.path):
        os.rename(run.path, target)
    return target


def remove_run(run: RunDirectory) -> int:
    """Removes the run, and returns how many bytes that freed. Raises UsageError while a process trains in it."""
    freed = size_of(run.path)
    # Renamed first: a removal that is interrupted must not leave half a run under its name.
    doomed = run.path.with_name(f".removing-{run.path.resolve().name}")
    with locked(run.path), disk_errors(run.path):
        os.rename(run.path, doomed)
    with disk_errors(doomed):
        shutil.rmtree(doomed)
    return freed


def prune_run(run: RunDirectory) -> int:
    """Removes the checkpoints of a finished run, and returns how many bytes that freed: none for another one, which
    needs them."""
    with locked(run.path), disk_errors(run.path):
        if not run.has_adapter or run.checkpoints.is_symlink() or not run.checkpoints.is_dir():
            return 0
        freed = size_of(run.checkpoints)
        shutil.rmtree(run.checkpoints)
    return freed


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
