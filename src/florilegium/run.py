"""The run directory: what a training run leaves behind, and how its files are written so that none is ever half there.

    runs/NAME/
        config.yaml        every setting, resolved: `florilegium train --config` repeats the run
        manifest.json      versions, seeds, digests of base, tokenizer, data and template
        metrics.jsonl      one object a logged step, and one an evaluation
        samples.jsonl      what the model wrote as it learned
        events.jsonl       what happened to the run: resumed from where, settings changed, memory running out
        adapter/           the result, in PEFT's layout
        checkpoints/       step-00000100/ ...: to go on from after a stop
        training_ngrams.safetensors    hashed 8-word runs of the training rows, to tell a new quote from a copy

A file is written under another name in the same folder, flushed to disk, and renamed over its place: a reader sees the old one or the
new one (a whole folder: `commit.py`). A lock that the operating system holds (and drops when the process dies) keeps a second run out.
Every byte goes through `os.open`, `os.write` and `os.fsync` called from here and from `commit.py`, so a test can fail each of them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import resource
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from florilegium.errors import ResourceError, UsageError

RUNS = Path("runs")
LOCK = ".lock"
EARLY = 4 << 20  # bytes after which the disk is set to work, long before the flush
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def new_run(output: str | None, name: str, *, force: bool = False) -> Iterator[Path]:
    """Makes the folder of a new run and holds its lock: `output`, or `runs/<date>-<name>` with a number where that is taken.

    An `output` that already holds something is refused with UsageError; with `force` it is renamed to `<output>.old-N` first, so that
    nothing is lost, but never while another process trains in it. A folder that was made here and stayed empty is removed again.
    """
    directory = _free_name(name) if output is None else check_path(output, "--output")
    with contextlib.ExitStack() as held:
        if output is not None and _taken(directory):
            if not force:
                raise UsageError(f"{directory} is already there", "Choose another --output, or set it aside with --force")
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


def _free_name(name: str) -> Path:
    stem = f"{datetime.now():%Y%m%d-%H%M%S}-{slug(name)}"
    for number in range(1000):
        directory = RUNS / (stem if number == 0 else f"{stem}-{number + 1}")
        with contextlib.suppress(FileExistsError), disk_errors(directory):
            directory.mkdir(parents=True)
            return directory
    raise UsageError(f"no free name left for {RUNS / stem}", "Name the folder with --output")


def _taken(directory: Path) -> bool:
    """Whether something is there that a new run would mix with: anything but an empty folder (a lock that was left counts as empty)."""
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
    """A path below the home folder with `~` for it: what a run writes down may be published, and need not name its owner."""
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
    raise UsageError(f"no run or adapter at {name}", "`florilegium train` makes one; --run latest takes the newest in runs/")


def adapter_folder(path: Path) -> Path:
    """The adapter inside a run, or the folder itself if it is one. Raises UsageError."""
    for folder in (path / "adapter", path):
        if (folder / "adapter_config.json").is_file():
            return folder
    raise UsageError(f"{path} holds no adapter", "Name a run that finished, or a folder with adapter_config.json")


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Holds the run: a second process that wants it gets UsageError. The lock dies with its process, so none is ever stale: what
    stands in the file (who holds it) is for the message alone."""
    with disk_errors(directory):
        handle = os.open(directory / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        with disk_errors(directory / LOCK):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(handle, 40).decode("ascii", "replace").strip() or "unknown"
                raise UsageError(
                    f"another process (number {holder}) is training in {directory}", "Wait for it, or choose another --output"
                ) from None
            os.ftruncate(handle, 0)
            with contextlib.suppress(OSError):  # a full disk must not keep anybody from resuming
                os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(handle)


def refuse_links(directory: Path) -> None:
    """A run's own entries must lie in it: a link in a run that somebody else made would have us write, or remove, elsewhere."""
    for path in directory.iterdir():
        if path.is_symlink():
            raise UsageError(f"{path} is a symbolic link", "florilegium writes inside the run's folder only: put the real one there")


@dataclass
class Room:
    """How many bytes are about to be written; for the message, should there be no room."""

    needed: int


@contextlib.contextmanager
def disk_errors(path: Path, needed: int = 4096) -> Iterator[Room]:
    """Turns the operating system's refusals (full, read-only, no permission) into ResourceError that names `path`, and for a full
    disk the bytes `needed` (a block, when nothing is said) and free."""
    room = Room(needed)
    try:
        yield room
    except FileExistsError:
        raise
    except OSError as error:
        fix = no_room_fix(path, room.needed) if error.errno in NO_ROOM else "Choose a folder that can be written with --output"
        raise ResourceError(f"cannot write {path}: {error.strerror or error}", fix) from error
    except Exception as error:
        if "os error 28" in str(error):  # how a library written in Rust reports a full disk
            raise ResourceError(f"cannot write {path}: No space left on device", no_room_fix(path, room.needed)) from error
        raise


def no_room_fix(path: Path, needed: int) -> str:
    """What to do where `needed` bytes found no room: how much that is, how much is free, and how large a file may be at all."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    largest = f", files of {limit / 1e6:.3f} MB at most (ulimit -f)" if limit != resource.RLIM_INFINITY else ""
    what = f"{needed / 1e6:.3f} MB are needed and {free_bytes(path) / 1e6:.3f} MB are free there{largest}"
    return f"{what}: make room, then `florilegium resume`"


def free_bytes(path: Path) -> int:
    """Bytes that may still be written where `path` is or would be."""
    existing = next((p for p in (path, *path.absolute().parents) if p.exists()), Path("/"))
    return shutil.disk_usage(existing).free


class Output:
    """A file being written: `write` takes text or bytes and returns when the system has taken all of it."""

    def __init__(self, handle: int) -> None:
        self.handle = handle
        self.asked = 0  # bytes so far, those that found no room included
        self.on_the_way = 0  # bytes that the disk was set to work on

    def write(self, data: str | bytes | memoryview) -> None:
        view = memoryview(data.encode("utf-8") if isinstance(data, str) else data).cast("B")
        self.asked += len(view)
        while view:
            view = view[os.write(self.handle, view) :]
        if self.asked - self.on_the_way >= EARLY:
            # "Not needed any more" has the system write these bytes now, beside what we do next. The flush at the end, which alone
            # promises anything and tells of errors, finds little left; and a checkpoint pushes nothing of others' out of the cache.
            os.posix_fadvise(self.handle, self.on_the_way, self.asked - self.on_the_way, os.POSIX_FADV_DONTNEED)
            self.on_the_way = self.asked


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Output]:
    """A file that was not there before, with the umask's mode, on disk when the block ends."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        yield Output(handle)
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Output]:
    """A file to write into that appears at `path` whole, on disk, with the umask's mode, or not at all. Raises ResourceError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors(path) as room:
        temporary.unlink(missing_ok=True)  # of a process that died with our number
        try:
            with new_file(temporary) as file:
                try:
                    yield file
                finally:
                    room.needed = max(room.needed, file.asked)
            os.rename(temporary, path)
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
    with atomic_write(path) as file:
        file.write(text)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def append_line(path: Path, value: dict[str, Any]) -> None:
    """One JSON object more in a .jsonl file. A reader that meets a torn last line (after a crash) leaves it out: `read_lines`."""
    line = json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"
    with disk_errors(path):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            Output(handle).write(line)
        finally:
            os.close(handle)


def sync_file(path: Path) -> None:
    """Makes the lines appended so far survive a power cut."""
    if path.exists():
        with disk_errors(path):
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file that are whole: a torn or overwritten line is left out."""
    rows = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
            with contextlib.suppress(ValueError, RecursionError):
                row = json.loads(line)
                if isinstance(row, dict):
                    rows.append(row)
    return rows
