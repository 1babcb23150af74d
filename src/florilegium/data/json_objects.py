"""A JSON file that is one object: where its rows are.

    {"version": 1, "data": [{...}, {...}]}              under a key
    {"q1": {"quote": ...}, "q2": {"quote": ...}}        keyed by id
    {"love": ["...", "..."], "life": ["..."]}           keyed by category, which becomes a column
    {"quote": ["...", "..."], "tags": [[...], [...]]}   column by column, as `to_dict` writes it
    {"quote": {"0": "..."}, "tags": {"0": [...]}}       likewise, as pandas writes it
    {"columns": [...], "data": [[...], [...]]}          pandas again, orient="split"
    {"train": [{...}], "test": [{...}]}                 by split, which becomes a column that `split_column.py` heeds
    {"Be kind.": ["life"], "Be brave.": ["courage"]}    keyed by the text itself

An object with a text of its own is a row. What fits nothing of this is left to the reader of lines to refuse."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from florilegium.data.cell_values import is_texts
from florilegium.data.column_names import find_tags, find_text
from florilegium.data.column_values import count_words
from florilegium.data.quote import first_doubled
from florilegium.data.raw_rows import Note
from florilegium.data.split_files import TRAIN, split_of

_CHAT = ("messages", "conversations", "conversation", "dialog", "dialogue", "turns")
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
    for form in (_split_table, _by_split, _by_columns, _by_category, _by_id, _by_text):
        if found := form(whole):
            return found
    return _below(whole, depth)


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


def _by_split(whole: Object) -> ObjectRows | None:
    """Rows under the names of splits; beside `train` and another one there may be more ("unlabelled")."""
    parts = {name: rows for name, value in whole.items() if (rows := _rows_under(value))}
    sides = {split_of(name) for name in parts}
    if len(parts) < 2 or not (sides > {TRAIN, None} or None not in sides):
        return None
    rows = [{**row, "split": name} for name, under in parts.items() for row in under]
    return ObjectRows(rows, f"under the splits {', '.join(parts)}")


def _rows_under(value: object) -> list[Object]:
    """A list of rows, or an object with rows in it, as rows that are objects."""
    if isinstance(value, Mapping):
        found = rows_of(value)
        value = found.rows if found else []
    rows = value if isinstance(value, Sequence) and not isinstance(value, str) and _are_rows(value) else []
    return [row if isinstance(row, Mapping) else {"text": row} for row in rows]


def _by_category(whole: Object) -> ObjectRows | None:
    """Lists of the same kind of rows under several names: categories."""
    lists = {name: value for name, value in whole.items() if isinstance(value, list) and value}
    if len(lists) < 2 or len(lists) < len(whole) or not all(_are_rows(value) for value in lists.values()):
        return None
    columns = [set(value[0]) if isinstance(value[0], Mapping) else {"text"} for value in lists.values()]
    if not set.intersection(*columns):
        return None
    rows = []
    for name, values in lists.items():
        for value in values:
            row = dict(value) if isinstance(value, Mapping) else {"text": value}
            rows.append(row if find_tags(list(row)) else {**row, "category": name})
    return ObjectRows(rows, f"under {len(lists):,} categories")


def _by_text(whole: Object) -> ObjectRows | None:
    """Tags under their texts."""
    values = list(whole.values())
    is_tags = all(isinstance(value, str | list) and is_texts(value) for value in values)
    if len(values) < 2 or not is_tags or sum(map(count_words, whole)) < 3 * len(whole):
        return None
    return ObjectRows([{"text": text, "tags": tags} for text, tags in whole.items()], "keyed by their texts")


def _by_id(whole: Object) -> ObjectRows | None:
    values = list(whole.values())
    if len(values) > 1 and all(isinstance(value, Mapping) and value for value in values):
        return ObjectRows(values, f"keyed by {next(iter(whole))[:20]!r} and so on")
    if len(values) > 2 and all(isinstance(value, str) and count_words(value) > 2 for value in values):
        return ObjectRows([{"text": value} for value in values], f"keyed by {next(iter(whole))[:20]!r} and so on")
    return None


def _below(whole: Object, depth: int) -> ObjectRows | None:
    """The longest list of rows under a key, or in an object under a key."""
    lists = [(n, v) for n, v in whole.items() if isinstance(v, list) and (_are_rows(v) or _are_lists(v))]
    if lists:
        name, rows = max(lists, key=lambda pair: len(pair[1]))
        return ObjectRows(rows, f"under {name!r}")
    for name, value in whole.items():
        if isinstance(value, Mapping) and depth < 3 and (found := rows_of(value, depth + 1)):
            return ObjectRows(found.rows, f"under {name!r}, {found.where}")
    return None


def _are_lists(values: Sequence[object]) -> bool:
    """Two lists or more of two items or more: a sheet, as Google's interface gives it."""
    return len(values) > 1 and all(isinstance(value, list) and len(value) > 1 for value in values)


def _are_rows(values: Sequence[object]) -> bool:
    """Objects, or texts of several words; of Chinese, Japanese and Thai two signs are a word."""
    if not values:
        return False
    if all(isinstance(value, Mapping) for value in values):
        return True
    return all(isinstance(value, str) for value in values) and sum(count_words(str(v)) for v in values) >= 3 * len(
        values
    )
