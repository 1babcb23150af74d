"""A run's folder is the one that the run began in, at every write: another program may move it away meanwhile and put a
link there, and steps would be written, and old ones removed, where the link leads."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from florilegium.errors import ResourceError


@dataclass(frozen=True)
class SamePlace:
    """`folder` as it was when work in it began; `parts` are folders in it that must not be links."""

    folder: Path
    device: int
    inode: int
    parts: tuple[str, ...] = ()

    @classmethod
    def of(cls, folder: Path, *parts: str) -> SamePlace:
        found = os.stat(folder)  # it may be a link from the start: the user's own choice
        return cls(folder, found.st_dev, found.st_ino, parts)

    def check(self) -> None:
        """Raises ResourceError where another folder or a link stands there now. One that is gone is told by the write
        that fails."""
        try:
            now = os.stat(self.folder)
        except OSError:
            return
        if (now.st_dev, now.st_ino) != (self.device, self.inode):
            self._refuse(self.folder)
        for part in self.parts:
            if is_link(self.folder / part):
                self._refuse(self.folder / part)

    def _refuse(self, path: Path) -> None:
        raise ResourceError(
            f"{path} was replaced while the run was writing to it; nothing more is written there",
            "Put it back, then: florilegium resume RUN",
        )


def is_link(path: Path) -> bool:
    try:
        return stat.S_ISLNK(os.lstat(path).st_mode)
    except OSError:
        return False
