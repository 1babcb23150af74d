"""Tags inside an object beside the text, as labelling tools export them.

    {"quote": ..., "meta": {"tags": ["life"]}}              under a key that is called as tags are
    {"text": ..., "cats": {"joy": 1.0, "fear": 0.0}}        spaCy and Prodigy: the keys with 1
    {"text": ..., "mood": {"choices": ["joy"]}}             Label Studio, JSON_MIN
    {"data": {"text": ...}, "annotations": [{"result": [{"value": {"choices": ["joy"]}}]}]}      the same, JSON

Only where no column holds tags itself; and it is said where they were found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from florilegium.data.cell_values import as_items, is_nothing
from florilegium.data.column_names import find_tags, is_called_tags
from florilegium.data.column_values import look_at
from florilegium.data.tag_columns import is_mark, is_yes
from florilegium.errors import one_line

CHOICES, RESULTS = "choices", "annotations"
_FIRST = 50


@dataclass(frozen=True)
class TagsInside:
    """The column whose objects hold the tags, and how they are read."""

    column: str
    read: Callable[[object], list[object]]
    said: str

    def joined(self, row: Mapping[str, object]) -> dict[str, object]:
        """The row with a column of tags instead of that object."""
        left = {name: value for name, value in row.items() if name != self.column}
        return left | {"tags": self.read(row.get(self.column))}


def find_tags_inside(rows: Sequence[Mapping[str, object]], asked: Sequence[str]) -> TagsInside | None:
    """Where the tags of rows such as these are; None where a column has them, or one of `asked` is the object."""
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if isinstance(name, str)]
    if any(look_at(name, rows).may_be_tags for name in find_tags(names)):
        return None
    if not any(look_at(name, rows).is_long_text for name in names):
        return None
    for name in names:
        values = [row[name] for row in rows[:_FIRST] if not is_nothing(row.get(name))]
        if 2 * len(values) >= len(rows[:_FIRST]) and name not in asked and (found := _in_column(name, values)):
            return found
    return None


def _in_column(name: str, values: Sequence[object]) -> TagsInside | None:
    shown = f"'{one_line(name)}'"
    if name == RESULTS and any(map(_choices_of, values)):
        return TagsInside(name, _choices_of, f"the tags are the choices in {shown}")
    if not all(isinstance(value, Mapping) for value in values):
        return None
    objects = [value for value in values if isinstance(value, Mapping)]
    keys = list(dict.fromkeys(key for value in objects for key in value if isinstance(key, str)))
    key = next((key for key in keys if key == CHOICES or is_called_tags(key)), None)
    if key is not None and look_at(key, objects).may_be_tags:
        return TagsInside(name, lambda value: _under(value, key), f"the tags are in {shown}, under '{one_line(key)}'")
    if len(keys) > 1 and all(is_mark(mark) for value in objects for mark in value.values()):
        return TagsInside(name, _marked, f"{shown} holds 0 or 1 for each tag: the tags are the names of those with 1")
    return None


def _under(value: object, key: str) -> list[object]:
    found = as_items(value.get(key), "") if isinstance(value, Mapping) else []
    return list(found) if isinstance(found, list | tuple) else [found]


def _marked(value: object) -> list[object]:
    return [key for key, mark in value.items() if is_yes(mark)] if isinstance(value, Mapping) else []


def _choices_of(annotations: object) -> list[object]:
    """What the first annotation of a task that has any chose, in its order; one that was cancelled chose nothing."""
    for annotation in annotations if isinstance(annotations, list) else []:
        results = annotation.get("result") if isinstance(annotation, Mapping) else None
        parts = [result.get("value") for result in results if isinstance(result, Mapping)] if results else []
        if chosen := [item for part in parts for item in _under(part, CHOICES)]:
            return chosen
    return []
