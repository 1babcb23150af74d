"""Names and paths that people give: as one path component, as a path that a file system takes, without the home folder's
owner."""

from __future__ import annotations

import errno
import os
import re
import shlex
from pathlib import Path

from florilegium.errors import UsageError


def slug(name: str) -> str:
    """A name that is safe as one path component: letters, digits, dot and dash, at most 60 characters."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", Path(name).name).strip("-.")[:60] or "run"


def check_path(name: str, flag: str) -> Path:
    """`name` as a path. Raises UsageError for one that no file system takes (empty, with a NUL, too long), or that cannot
    be written down: a run's files name its paths, in UTF-8."""
    if not is_text(name):
        raise UsageError(f"{flag} {ascii(name)[:80]} is not UTF-8", "Rename it")
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


def is_text(name: str) -> bool:
    """Whether a path can be written as UTF-8: a file's name may be any bytes, which Python keeps as lone surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def tilde(name: str) -> str:
    """A path below the home folder with `~` for it: what a run writes down may be published, and need not name its
    owner."""
    home = os.path.expanduser("~").rstrip("/")
    return "~" + name[len(home) :] if home and name.startswith(home + "/") else name


def without_home(text: str) -> str:
    """`tilde` for every path in a longer text."""
    home = os.path.expanduser("~").rstrip("/")
    return text.replace(home + "/", "~/") if home else text


def quoted(path: object) -> str:
    """The path as a shell takes it, in a command that a message tells people to type."""
    return shlex.quote(str(path))
