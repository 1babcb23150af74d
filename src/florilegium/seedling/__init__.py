"""The seedling: a small BLOOM that ships with the package, and the sayings written for it (`sayings.jsonl`, CC0)."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
SAYINGS = FOLDER / "sayings.jsonl"
