"""A JSON file that is one object: where its rows are.

    {"version": 1, "data": [{...}, {...}]}              under a key
    {"q1": {"quote": ...}, "q2": {"quote": ...}}        keyed by id
    {"love": ["...", "..."], "life": ["..."]}           keyed by category, which becomes a column
    {"quote": ["...", "..."], "tags": [[...], [...]]}   column by column, as `to_dict` writes it
    {"quote": {"0": "..."}, "tags": {"0": [...]}}       likewise, as pandas writes it
    {"columns": [...], "data": [[...], [...]]}          pandas again, orient="split"

An object with a text of its own is a row. What fits nothing of this is left to the reader of lines to refuse."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from florilegium.data.column_names import find_tags, find_text
from florilegium.data.quote import first_doubled
from florilegium.data.raw_rows import Note

_CHAT = ("messages", "conversations", "conversation", "dialog", "dialogue", "turns")
_TRAIN, _OTHER_SPLITS = "train", ("test", "validation", "valid", "val", "dev", "eval")
Object = Mapping[str, object]


class DoubledKey(ValueError):
    """An object has the same key twice."""


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise DoubledKey(first_doubled(name for name, _ in pairs))
    return row


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) < 400 else float(digits)


# One for all rows: `json.loads` with a hook builds a decoder each time.
DECODER = json.JSONDecoder(parse_int=_integer, object_pairs_hook=_object)


@dataclass(frozen=True)
class ObjectRows:
    """The rows of an object, and where they were."""

    rows: Sequence[object]
    where: str

    def notes(self, name: str) -> Iterator[Note]:
        yield Note(f"{name}: one object, rows {self.where}")


def objects_of(text: str) -> list[Object]:
    """The objects that stand in a text one behind the other; none when anything else is there."""
    found: list[Object] = []
    end = 0
    try:
        while end < len(text):
            end += len(text[end : end + 1000]) - len(text[end : end + 1000].lstrip())
            if end >= len(text):
                break
            if text[end].isspace():
                continue
            row, end = DECODER.raw_decode(text, end)
            if not isinstance(row, Mapping):
                return []
            found.append(row)
    except (ValueError, RecursionError):
        return []
    return found


def rows_of(whole: Object, depth: int = 0) -> ObjectRows | None:
    """The rows in an object; None when it is a row itself, or nothing that is known."""
    if not whole or _is_row(whole):
        return None
    return _split_table(whole) or _by_columns(whole) or _by_category(whole) or _by_id(whole) or _below(whole, depth)


def _is_row(row: Object) -> bool:
    return any(isinstance(row[name], str) for name in find_text(list(row)[:200])) or any(name in _CHAT for name in row)


def _split_table(whole: Object) -> ObjectRows | None:
    columns, data = whole.get("columns"), whole.get("data")
    if not (
        isinstance(columns, list) and isinstance(data, list) and data and all(isinstance(row, list) for row in data)
    ):
        return None
    rows = [dict(zip(map(str, columns), row, strict=False)) for row in data]
    return ObjectRows(rows, "under 'data', columns under 'columns'")


def _by_columns(whole: Object) -> ObjectRows | None:
    if not find_text(list(whole)):
        return None
    values = list(whole.values())
    lists = [value for value in values if isinstance(value, list)]
    if len(lists) == len(values) and len({len(value) for value in lists}) == 1:
        rows = [dict(zip(whole, row, strict=True)) for row in zip(*lists, strict=True)]
        return ObjectRows(rows, "column by column")
    tables = [value for value in values if isinstance(value, Mapping)]
    keys = list(tables[0]) if len(tables) == len(values) else []
    if keys and not find_text(keys) and all(list(table) == keys for table in tables):
        rows = [{name: table[key] for name, table in zip(whole, tables, strict=True)} for key in keys]
        return ObjectRows(rows, "column by column")
    return None


def _by_category(whole: Object) -> ObjectRows | None:
    """Lists under several names: parts of a split, of which `train` is read, else categories."""
    lists = {name: value for name, value in whole.items() if isinstance(value, list) and value}
    if _TRAIN in lists and any(name in lists for name in _OTHER_SPLITS):
        others = ", ".join(f"'{name}'" for name in lists if name != _TRAIN)
        return ObjectRows(lists[_TRAIN], f"under 'train'; {others} left alone")
    if len(lists) < 2 or len(lists) < len(whole) or not all(_are_rows(value) for value in lists.values()):
        return None
    rows = []
    for name, values in lists.items():
        for value in values:
            row = dict(value) if isinstance(value, Mapping) else {"text": value}
            rows.append(row if find_tags(list(row)) else {**row, "category": name})
    return ObjectRows(rows, f"under {len(lists):,} categories")


def _by_id(whole: Object) -> ObjectRows | None:
    values = list(whole.values())
    if len(values) > 1 and all(isinstance(value, Mapping) and value for value in values):
        return ObjectRows(values, f"keyed by {next(iter(whole))[:20]!r} and so on")
    if len(values) > 2 and all(isinstance(value, str) and len(value.split()) > 2 for value in values):
        return ObjectRows([{"text": value} for value in values], f"keyed by {next(iter(whole))[:20]!r} and so on")
    return None


def _below(whole: Object, depth: int) -> ObjectRows | None:
    """The longest list of rows under a key, or in an object under a key."""
    lists = [(name, value) for name, value in whole.items() if isinstance(value, list) and _are_rows(value)]
    if lists:
        name, rows = max(lists, key=lambda pair: len(pair[1]))
        return ObjectRows(rows, f"under {name!r}")
    for name, value in whole.items():
        if isinstance(value, Mapping) and depth < 3 and (found := rows_of(value, depth + 1)):
            return ObjectRows(found.rows, f"under {name!r}, {found.where}")
    return None


def _are_rows(values: Sequence[object]) -> bool:
    """Objects, or texts of several words."""
    if not values:
        return False
    if all(isinstance(value, Mapping) for value in values):
        return True
    return all(isinstance(value, str) for value in values) and sum(len(str(v).split()) for v in values) >= 3 * len(
        values
    )
