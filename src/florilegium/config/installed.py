"""Which version of a package is installed. A package that runs from a source tree has no metadata: then it is unknown."""

from __future__ import annotations

import importlib.metadata

UNKNOWN = "unknown"


def installed_version(package: str) -> str:
    """The version of an installed distribution, or "unknown"."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return UNKNOWN
