"""The run directory: what a training run leaves behind, how it is named, found and held.

    runs/NAME/
        config.yaml        every setting, resolved: `florilegium train --config` repeats the run
        manifest.json      versions, seeds, digests of base, tokenizer, data and template
        metrics.jsonl      one object a logged step, and one an evaluation
        samples.jsonl      what the model wrote as it learned
        events.jsonl       what happened to the run: resumed from where, settings changed, memory running out
        adapter/           the result, in PEFT's layout
        checkpoints/       step-00000100/ ...: to go on from after a stop
        training_ngrams.safetensors    hashed 8-word runs of the training rows, to tell a new quote from a copy

A lock that the operating system holds (and drops when the process dies) keeps a second run out. How files are written:
`atomic_files.py`."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from florilegium.errors import UsageError
from florilegium.storage.atomic_files import disk_errors

RUNS = Path("runs")
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
        raise UsageError(f"{directory} is already there", "Choose another --output, or set it aside with --force")


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
    raise UsageError(f"too many old ones beside {path}", "Remove some of those that end in .old-N")


def slug(name: str) -> str:
    """A name that is safe as one path component: letters, digits, dot and dash, at most 60 characters."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", Path(name).name).strip("-.")[:60] or "run"


def check_path(name: str, flag: str) -> Path:
    """`name` as a path. Raises UsageError for one that no file system takes: empty, with a NUL, too long."""
    if not name or "\0" in name:
        raise UsageError(f"{flag} {'holds a NUL character' if name else 'is empty'}", "Name a folder")
    path = Path(name).expanduser() if name.startswith("~") and Path(name).parts[0] == "~" else Path(name)
    try:
        path.lstat()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
            raise UsageError(f"{flag} {name[:80]!r} cannot be a path ({error.strerror})", "Name a folder") from None
    except ValueError as error:
        raise UsageError(f"{flag} {name[:80]!r} cannot be a path ({error})", "Name a folder") from None
    return path


def tilde(name: str) -> str:
    """A path below the home folder with `~` for it: what a run writes down may be published, and need not name its
    owner."""
    home = os.path.expanduser("~").rstrip("/")
    return "~" + name[len(home) :] if home and name.startswith(home + "/") else name


def without_home(text: str) -> str:
    """`tilde` for every path in a longer text."""
    home = os.path.expanduser("~").rstrip("/")
    return text.replace(home + "/", "~/") if home else text


def find_run(name: str) -> Path:
    """The run or adapter folder that `name` means: `latest`, a path, or a name under runs/. Raises UsageError."""
    if name == "latest":
        adapters = list(RUNS.glob("*/adapter/adapter_config.json"))
        if not adapters:
            raise UsageError("there is no finished run in runs/", "Make one with `florilegium train`")
        return max(adapters, key=lambda p: p.stat().st_mtime).parent.parent
    given = check_path(name, "the run")
    for path in (given, RUNS / given):
        if path.is_dir():
            return path
    raise UsageError(
        f"no run or adapter at {name}", "`florilegium train` makes one; --run latest takes the newest in runs/"
    )


def adapter_folder(path: Path) -> Path:
    """The adapter inside a run, or the folder itself if it is one. Raises UsageError."""
    for folder in (path / "adapter", path):
        if (folder / "adapter_config.json").is_file():
            return folder
    raise UsageError(f"{path} holds no adapter", "Name a run that finished, or a folder with adapter_config.json")


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Holds the run: a second process that wants it gets UsageError. The lock dies with its process, so none is ever
    stale: what stands in the file (who holds it) is for the message alone."""
    with disk_errors(directory):
        handle = os.open(directory / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        with disk_errors(directory / LOCK):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(handle, 40).decode("ascii", "replace").strip() or "unknown"
                raise UsageError(
                    f"another process (number {holder}) is training in {directory}",
                    "Wait for it, or choose another --output",
                ) from None
            os.ftruncate(handle, 0)
            with contextlib.suppress(OSError):  # a full disk must not keep anybody from resuming
                os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(handle)


def refuse_links(directory: Path) -> None:
    """A run's own entries must lie in it: a link in a run that somebody else made would have us write, or remove,
    elsewhere."""
    for path in directory.iterdir():
        if path.is_symlink():
            raise UsageError(
                f"{path} is a symbolic link", "florilegium writes inside the run's folder only: put the real one there"
            )
