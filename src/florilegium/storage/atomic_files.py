"""Files that are never half there, and what the operating system says when it cannot write them.

A file is written under another name in the same folder, flushed to disk, and renamed over its place: a reader sees the
old one or the new one (a whole folder: `atomic_folders.py`). Lines are appended whole, and a torn last one is left out
when they are read. Every byte goes through `os.open`, `os.write` and `os.fsync` called from here and from
`atomic_folders.py`, so a test can fail each of them."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from florilegium.errors import ResourceError
from florilegium.storage import platform
from florilegium.storage.library_errors import is_disk_full
from florilegium.storage.platform import sync_folder

EARLY = 4 << 20  # bytes after which the disk is set to work, long before the flush
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass
class Room:
    """How many bytes are about to be written; for the message, should there be no room."""

    needed: int


@dataclass(frozen=True)
class Remedy:
    """What a command can do where a disk refuses: `elsewhere` where it may not write, `again` once there is room."""

    elsewhere: str = "Choose a folder that can be written with --output"
    again: str = "`florilegium resume`"


TRAINING = Remedy()


@contextlib.contextmanager
def disk_errors(path: Path, needed: int = 4096, remedy: Remedy = TRAINING) -> Iterator[Room]:
    """Turns the operating system's refusals (full, read-only, no permission) into ResourceError that names `path`, and
    for a full disk the bytes `needed` (a block, when nothing is said) and free. The fix is `remedy`."""
    room = Room(needed)
    try:
        yield room
    except FileExistsError:
        raise
    except OSError as error:
        fix = no_room_fix(path, room.needed, remedy) if error.errno in NO_ROOM else remedy.elsewhere
        raise ResourceError(f"cannot write {path}: {error.strerror or error}", fix) from error
    except Exception as error:
        if is_disk_full(error):
            raise ResourceError(
                f"cannot write {path}: No space left on device", no_room_fix(path, room.needed, remedy)
            ) from error
        raise


def no_room_fix(path: Path, needed: int, remedy: Remedy = TRAINING) -> str:
    """What to do where `needed` bytes found no room: how much that is, how much is free, and how large a file may be at
    all."""
    limit = platform.largest_file()
    largest = f", files of {limit / 1e6:.3f} MB at most (ulimit -f)" if limit is not None else ""
    what = f"{needed / 1e6:.3f} MB are needed and {free_bytes(path) / 1e6:.3f} MB are free there{largest}"
    return f"{what}: make room, then {remedy.again}"


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
            platform.write_back_soon(self.handle, self.on_the_way, self.asked - self.on_the_way)
            self.on_the_way = self.asked


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Output]:
    """A file that was not there before, with the umask's mode, on disk when the block ends."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | platform.SAFE_OPEN, 0o666)
    try:
        yield Output(handle)
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def atomic_write(path: Path, remedy: Remedy = TRAINING) -> Iterator[Output]:
    """A file to write into that appears at `path` whole, on disk, with the umask's mode, or not at all. Raises
    ResourceError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors(path, remedy=remedy) as room:
        temporary.unlink(missing_ok=True)  # of a process that died with our number
        try:
            with new_file(temporary) as file:
                try:
                    yield file
                finally:
                    room.needed = max(room.needed, file.asked)
            os.replace(temporary, path)
            sync_folder(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def write_text(path: Path, text: str, remedy: Remedy = TRAINING) -> None:
    with atomic_write(path, remedy) as file:
        file.write(text)


def write_json(path: Path, value: object, remedy: Remedy = TRAINING) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n", remedy)


def append_line(path: Path, value: Mapping[str, object]) -> None:
    """One JSON object more in a .jsonl file. A reader that meets a torn last line (after a crash) leaves it out:
    `json_lines.py`."""
    line = json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"
    with disk_errors(path):
        refuse_special(path)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | platform.SAFE_OPEN, 0o666)
        try:
            Output(handle).write(line)
        finally:
            os.close(handle)


def refuse_special(path: Path) -> None:
    """Raises OSError for what is there and no plain file: opening a FIFO waits for its other side."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a plain file", str(path))


def sync_file(path: Path) -> None:
    """Makes the lines appended so far survive a power cut."""
    if path.exists():
        with disk_errors(path):
            refuse_special(path)
            handle = os.open(path, os.O_RDONLY | platform.SAFE_OPEN)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
