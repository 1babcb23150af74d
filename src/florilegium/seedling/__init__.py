"""The seedling: a small BLOOM that ships with the package, and sayings in its own plain English to tune it on
(`sayings.jsonl`, CC0): written by its teacher, never read by it, chosen and tagged by reading."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
SAYINGS = FOLDER / "sayings.jsonl"
