"""A folder that may not be looked into, also where tests run as root."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def without_rights(folder: Path, rights: int) -> Iterator[None]:
    """With these rights on a folder, and without those of root, who may look into everything."""
    user = os.geteuid()
    folder.chmod(rights)
    try:
        if not user:
            os.seteuid(65534)
        yield
    finally:
        os.seteuid(user)
        folder.chmod(0o755)
