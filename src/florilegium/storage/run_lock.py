"""A run's folder made, held and kept apart: a new name, a lock against a second process, nothing that was there lost.

The operating system holds the lock and drops it when its process dies, so none is ever stale."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from florilegium.errors import UsageError
from florilegium.storage import platform
from florilegium.storage.atomic_files import disk_errors, refuse_special
from florilegium.storage.paths import check_path, slug
from florilegium.storage.run_directory import RUNS

LOCK = ".lock"


@contextlib.contextmanager
def new_run(output: str | None, name: str, *, force: bool = False) -> Iterator[Path]:
    """Makes the folder of a new run and holds its lock: `output`, or `runs/<date>-<name>` with a number where that is
    taken.

    An `output` that already holds something is refused with UsageError; with `force` it is renamed to `<output>.old-N`
    first, so that nothing is lost, but never while another process trains in it. A folder that was made here and stayed
    empty is removed again."""
    refuse_taken(output, force=force)
    directory = _free_name(name) if output is None else check_path(output, "--output")
    with contextlib.ExitStack() as held:
        if output is not None and _taken(directory):
            if directory.is_dir() and not directory.is_symlink():
                held.enter_context(locked(directory))  # whoever trains there goes on, and we do not
            set_aside(directory)
        with disk_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)
        held.enter_context(locked(directory))
        if _taken(directory):  # another process was here between the look and the lock
            raise UsageError(f"{directory} is already there", "Choose another --output")
        try:
            yield directory
        finally:
            if not _taken(directory):
                (directory / LOCK).unlink(missing_ok=True)
                with contextlib.suppress(OSError):
                    directory.rmdir()


def refuse_taken(output: str | None, *, force: bool = False) -> None:
    """Raises UsageError when `output` already holds something that a run would mix with. Asked before rows or a model
    are read, and once more when the folder is made."""
    if output is not None and not force and _taken(directory := check_path(output, "--output")):
        raise UsageError(f"{directory} is already there", "Choose another --output, or move it aside with --force")


def _free_name(name: str) -> Path:
    stem = f"{datetime.now():%Y%m%d-%H%M%S}-{slug(name)}"
    for number in range(1000):
        directory = RUNS / (stem if number == 0 else f"{stem}-{number + 1}")
        with contextlib.suppress(FileExistsError), disk_errors(directory):
            directory.mkdir(parents=True)
            return directory
    raise UsageError(f"no free name left for {RUNS / stem}", "Name the folder with --output")


def _taken(directory: Path) -> bool:
    """Whether something is there that a new run would mix with: anything but an empty folder (a lock that was left
    counts as empty)."""
    if directory.is_symlink():
        return True
    if not directory.exists():
        return False
    with disk_errors(directory):
        return not directory.is_dir() or any(entry.name != LOCK for entry in directory.iterdir())


def set_aside(path: Path) -> Path:
    """Renames a file or folder to `<path>.old-N`, the first N that is free, and returns the new path."""
    for number in range(1, 1000):
        aside = path.with_name(f"{path.name}.old-{number}")
        if not aside.exists() and not aside.is_symlink():
            with disk_errors(path):
                os.rename(path, aside)
            return aside
    raise UsageError(f"too many old copies beside {path}", "Remove some of those that end in .old-N")


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Holds the run: a second process that wants it gets UsageError. The lock dies with its process, so none is ever
    stale: what stands in the file (who holds it) is for the message alone."""
    with disk_errors(directory / LOCK):
        refuse_special(directory / LOCK)
        handle = os.open(directory / LOCK, os.O_CREAT | os.O_RDWR | platform.SAFE_OPEN, 0o666)
    try:
        with disk_errors(directory / LOCK):
            try:
                platform.lock(handle)
            except BlockingIOError:
                holder = os.read(handle, 40).decode("ascii", "replace").strip() or "unknown"
                raise UsageError(
                    f"another process (number {holder}) is training in {directory}",
                    "Wait for it, or choose another --output",
                ) from None
            os.ftruncate(handle, 0)
            with contextlib.suppress(OSError):  # a full disk must not keep anybody from resuming
                os.write(handle, str(os.getpid()).encode())
        yield
    finally:
        os.close(handle)


def is_locked(directory: Path) -> bool:
    """Whether a process holds the run. Nothing is written: who only asks must leave no trace."""
    try:
        refuse_special(directory / LOCK)
        handle = os.open(directory / LOCK, os.O_RDWR | platform.SAFE_OPEN)
    except OSError:
        return False
    try:
        platform.lock(handle)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def refuse_links(directory: Path) -> None:
    """A run's own entries must lie in it: a link in a run that somebody else made would have us write, or remove,
    elsewhere."""
    for path in directory.iterdir():
        if path.is_symlink():
            raise UsageError(
                f"{path} is a symbolic link", "florilegium writes inside the run's folder only: put the real one there"
            )
