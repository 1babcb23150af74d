"""The run directory: what a training run leaves behind, and how its files are written so that none is ever half there.

    runs/NAME/
        config.yaml        every setting, resolved: `florilegium train --config` repeats the run
        manifest.json      versions, seeds, digests of base, tokenizer, data and template
        metrics.jsonl      one object a logged step, and one an evaluation
        samples.jsonl      what the model wrote as it learned
        adapter/           the result, in PEFT's layout
        checkpoints/       step-00000100/ ...: to go on from after a stop
        training_ngrams.safetensors    hashed 8-word runs of the training rows, to tell a new quote from a copy

A file is written under another name in the same folder, flushed to disk, and renamed over its place: a reader sees the old one or the
new one. A lock that the operating system holds (and drops when the process dies) keeps a second run out.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from florilegium.errors import ResourceError, UsageError

RUNS = Path("runs")


def new_run_directory(output: str | None, name: str, *, force: bool = False) -> Path:
    """Makes the folder of a new run: `output`, or `runs/<date>-<name>` with a number where that is taken.

    An `output` that already holds something is refused with UsageError; with `force` it is renamed to `<output>.old-N` first, so that
    nothing is lost.
    """
    if output is None:
        stem = f"{datetime.now():%Y%m%d-%H%M%S}-{slug(name)}"
        for number in range(1000):
            directory = RUNS / (stem if number == 0 else f"{stem}-{number + 1}")
            with contextlib.suppress(FileExistsError), disk_errors(directory):
                directory.mkdir(parents=True)
                return directory
        raise UsageError(f"no free name left for {RUNS / stem}", "Name the folder with --output")
    directory = Path(output)
    if "\0" in output:
        raise UsageError("--output holds a NUL character", "Name a folder")
    if directory.is_symlink() or (directory.exists() and (not directory.is_dir() or any(directory.iterdir()))):
        if not force:
            raise UsageError(f"{directory} is already there", "Choose another --output, or set it aside with --force")
        _set_aside(directory)
    with disk_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
    return directory


def _set_aside(directory: Path) -> None:
    for number in range(1, 1000):
        aside = directory.with_name(f"{directory.name}.old-{number}")
        if not aside.exists() and not aside.is_symlink():
            with disk_errors(directory):
                directory.rename(aside)
            return
    raise UsageError(f"too many old runs beside {directory}", "Remove some of the folders that end in .old-N")


def slug(name: str) -> str:
    """A name that is safe as one path component: letters, digits, dot and dash, at most 60 characters."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", Path(name).name).strip("-.")[:60] or "run"


def find_run(name: str) -> Path:
    """The run or adapter folder that `name` means: `latest`, a path, or a name under runs/. Raises UsageError."""
    if name == "latest":
        adapters = list(RUNS.glob("*/adapter/adapter_config.json"))
        if not adapters:
            raise UsageError("there is no finished run in runs/", "Make one with `florilegium train`")
        return max(adapters, key=lambda p: p.stat().st_mtime).parent.parent
    for path in (Path(name), RUNS / name):
        if path.is_dir():
            return path
    raise UsageError(f"no run or adapter at {name}", "`florilegium train` makes one; --run latest takes the newest in runs/")


def adapter_folder(path: Path) -> Path:
    """The adapter inside a run, or the folder itself if it is one. Raises UsageError."""
    for folder in (path / "adapter", path):
        if (folder / "adapter_config.json").is_file():
            return folder
    raise UsageError(f"{path} holds no adapter", "Name a run that finished, or a folder with adapter_config.json")


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Holds the run: a second process that wants it gets UsageError. The lock dies with its process, so none is ever stale."""
    with disk_errors(directory):
        handle = os.open(directory / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise UsageError(f"another process is training in {directory}", "Wait for it, or choose another --output") from None
    try:
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns the operating system's refusals (full, read-only, no permission) into ResourceError that names `path`."""
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        raise ResourceError(f"cannot write {path}: {error.strerror or error}", _disk_fix(error, path)) from error
    except Exception as error:
        if type(error).__name__ == "SafetensorError":  # how safetensors reports a full disk
            raise ResourceError(f"cannot write {path}: {error}", "Make room there, then `florilegium resume`") from error
        raise


def _disk_fix(error: OSError, path: Path) -> str:
    import errno
    import shutil

    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        existing = next((p for p in (path, *path.parents) if p.exists()), Path("/"))
        return f"{shutil.disk_usage(existing).free / 1e6:.1f} MB are free there: make room, then `florilegium resume`"
    return "Choose a folder that can be written with --output"


@contextlib.contextmanager
def atomic_write(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """A file to write into that appears at `path` whole, on disk, with the umask's mode, or not at all. Raises ResourceError."""
    with disk_errors(path):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        try:
            with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(0o666 & ~umask())  # mkstemp makes 0600, and others may have to read the adapter
            temporary.rename(path)
            sync_folder(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def umask() -> int:
    """The process's umask. There is no way to read it without setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def sync_folder(folder: Path) -> None:
    """Makes renames in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    with atomic_write(path, "w") as file:
        file.write(text)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def append_line(path: Path, value: dict[str, Any]) -> None:
    """One JSON object more in a .jsonl file. A reader that meets a torn last line (after a crash) leaves it out: `read_lines`."""
    with disk_errors(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file that are whole."""
    rows = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
            with contextlib.suppress(ValueError):
                rows.append(json.loads(line))
    return rows
