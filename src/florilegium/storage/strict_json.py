"""JSON of others, where every name stands once: of `{"n_head": 4, "n_head": 2}` one reader takes the first and another the
last, and what was checked would not be what is used."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any


def loads(text: bytes | str) -> Any:  # Any: whatever JSON can say
    """The value of `text`. Raises ValueError for what is no JSON or names a thing twice, RecursionError for what is too
    deep."""
    return json.loads(text, object_pairs_hook=_once)


def _once(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"{twice[:80]!r} stands there twice")
    return found
