"""What of the optional parts is installed, without importing it."""

from __future__ import annotations

from importlib.util import find_spec

SERVING = ("fastapi", "uvicorn", "prometheus_client")


def missing_for_serving() -> list[str]:
    """What `serve` and `ui` lack; `pip install 'florilegium[serve]'` brings it."""
    return [name for name in SERVING if find_spec(name) is None]
