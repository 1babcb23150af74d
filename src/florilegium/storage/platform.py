"""What differs by operating system, in one place: locks, flushing a folder, memory, limits.

Linux has all of it. On macOS and Windows the package imports, `--help` and `inspect` work, and training on the CPU has a
chance: what is missing there is left out where nothing is lost by it, and said in one line where it is."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType


def _optional(name: str) -> ModuleType | None:
    """A module of the standard library that not every system has."""
    try:
        return __import__(name)
    except ImportError:
        return None


fcntl, msvcrt, resource = _optional("fcntl"), _optional("msvcrt"), _optional("resource")

# For os.open: no child process inherits the file, and a link in its place is not followed.
SAFE_OPEN = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")  # where Linux tells of memory
LOCKED_BYTE = 1 << 30  # Windows locks bytes, and others could not read those: one that the file does not have


def lock(handle: int) -> None:
    """Takes the file's lock for this process. Raises BlockingIOError where another holds it."""
    if fcntl is not None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    elif msvcrt is not None:
        place = os.lseek(handle, 0, os.SEEK_CUR)
        os.lseek(handle, LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            raise BlockingIOError from None
        finally:
            os.lseek(handle, place, os.SEEK_SET)


def sync_folder(folder: Path) -> None:
    """Makes renames in `folder` survive a power cut. Windows opens no folders; its file systems log renames."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_back_soon(handle: int, start: int, size: int) -> None:
    """Has the system write these bytes now, beside what we do next. The flush at the end, which alone promises anything
    and tells of errors, finds little left; and a checkpoint pushes nothing of others' out of the cache."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(handle, start, size, os.POSIX_FADV_DONTNEED)


def largest_file() -> int | None:
    """How many bytes a file may have here at most (ulimit -f), or None where there is no limit."""
    if resource is None:
        return None
    limit = int(resource.getrlimit(resource.RLIMIT_FSIZE)[0])
    return None if limit == resource.RLIM_INFINITY else limit


def largest_address_space() -> int | None:
    """How many bytes of addresses this process may have at most (ulimit -v), or None where there is no limit."""
    if resource is None or not hasattr(resource, "RLIMIT_AS"):
        return None
    limit = int(resource.getrlimit(resource.RLIMIT_AS)[0])
    return None if limit == resource.RLIM_INFINITY else limit


def end_with_parent() -> None:
    """On Linux: from now on this process gets SIGTERM when the one that started it ends."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, int(signal.SIGTERM))  # PR_SET_PDEATHSIG


def peak_resident_bytes() -> int:
    """The largest memory that this process had; 0 where the system does not say."""
    if resource is None:
        return 0
    peak = int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB, macOS in bytes


def available_memory() -> int | None:
    """Bytes that a process can still take, or None where the system does not say: of the machine, or of the container
    or service whose limit (a control group's) leaves less."""
    found = [free for free in (_machine_memory(), *_group_memory()) if free is not None]
    return max(0, min(found)) if found else None


def _machine_memory() -> int | None:
    with contextlib.suppress(OSError, ValueError, KeyError):
        return _numbers(PROC / "meminfo")["MemAvailable:"] * 1024
    return None


def _group_memory() -> Iterator[int]:
    """What is left of the limit of each control group that this process is in, and of those above it. In a container
    the groups above are out of sight, and its own may be the root."""
    with contextlib.suppress(OSError, ValueError):
        for line in (PROC / "self" / "cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:  # version 2: one tree for all
                yield from _left(CGROUPS, path, "memory.max", "memory.current", "")
            elif "memory" in controllers.split(","):
                yield from _left(CGROUPS / "memory", path, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_")


def _left(tree: Path, path: str, limit: str, usage: str, prefix: str) -> Iterator[int]:
    folder = tree / path.strip("/")
    for group in (folder, *folder.parents):
        with contextlib.suppress(OSError, ValueError):  # no limit is "max" in version 2; the root has no file
            most, used = (int((group / name).read_text(encoding="ascii")) for name in (limit, usage))
            statistics = _numbers(group / "memory.stat")
            # files that were read are counted as used, and go when their room is wanted
            files = sum(statistics.get(f"{prefix}{kind}_file", 0) for kind in ("active", "inactive"))
            yield most - used + files
        if group == tree:
            return


def _numbers(path: Path) -> dict[str, int]:
    """A file of the kernel's with a name and a number on each line."""
    lines = (line.split() for line in path.read_text(encoding="ascii").splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) > 1}
