"""Rows that are no objects with a text in them, made such: lists, bare texts, and talks.

    ["a text", ["tag"]]                                       {"column 1": ..., "column 2": ...}, or as a first list names them
    "a text"                                                  {"text": ...}
    {"messages": [{"role": "user", "content": ...}, ...]}     {"prompt": ..., "completion": ...}, as talks.py finds them
    {"row": {"quote": ..., "tags": [...]}}                    {"quote": ..., "tags": [...]}
    "{\\"quote\\": ..., \\"tags\\": ...}"                     the same: an object that was written as a text
    {"quote": ..., "tag1": ..., "tag2": ...}                  {"quote": ..., "tags": [...]}, as tag_columns.py finds them

The first rows decide which it is, for the whole file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from florilegium.data.column_choice import Wanted
from florilegium.data.column_names import find_pair, find_text
from florilegium.data.csv_dialect import names_something
from florilegium.data.quote import SKIP, kind_of
from florilegium.data.raw_rows import Problem, Raw
from florilegium.data.tag_columns import find_tags_apart
from florilegium.data.tags_inside import find_tags_inside
from florilegium.data.talks import last_pair, talk_columns, turns_of
from florilegium.data.template import Template

_OF_TALKS = "the last assistant turn and the user turn before it are trained"
_FIRST, _MOST_NAMES = 20, 200

Shape = Callable[[Raw], "Raw | Problem | None"]  # None: no row at all, the names of the columns


@dataclass(frozen=True)
class Shaped:
    """How rows become objects, and what is to be said of it."""

    shape: Shape
    said: str = ""


def shape_of(rows: Sequence[object], example: str, wanted: Wanted) -> Shaped:
    """What rows such as these need. `example` is a row as it should be, for messages."""
    objects = [row for row in rows if isinstance(row, Mapping)]
    if objects:
        return _shape_of_objects(objects, example, wanted)
    first = rows[:_FIRST]
    if rows and all(isinstance(row, str) for row in rows):
        if all(isinstance(_parsed(row), dict) for row in first):
            return Shaped(lambda raw: _read_again(raw, example), "rows are objects that were written as texts")
        return Shaped(lambda raw: _text_row(raw, example))
    if rows and all(turns_of(row) for row in first):
        return Shaped(lambda raw: _last_pair(raw, ["messages"]), f"rows are conversations: {_OF_TALKS}")
    if rows and all(isinstance(row, list) and row for row in rows):
        return _shape_of_lists(rows, example)
    return Shaped(lambda raw: raw if isinstance(raw.row, dict) else _no_object(raw, example))


def _shape_of_objects(rows: Sequence[Mapping[str, object]], example: str, wanted: Wanted) -> Shaped:
    first = rows[:_FIRST]
    if talks := talk_columns(first):
        named = " and ".join(f"'{name}'" for name in talks)
        holds = "hold" if talks[1:] else "holds"
        return Shaped(lambda raw: _last_pair(raw, talks), f"{named} {holds} conversations: {_OF_TALKS}")
    if inner := _inner_column(first):
        unfolded = [found.row for row in rows if isinstance(found := _unfolded(Raw("", row), inner, example), Raw)]
        tags = _tags_together([row for row in unfolded if isinstance(row, Mapping)], example, wanted)
        return Shaped(
            lambda raw: tags.shape(row) if isinstance(row := _unfolded(raw, inner, example), Raw) else row,
            "; ".join(filter(None, (f"'{inner}' holds the columns", tags.said))),
        )
    return _tags_together(rows, example, wanted)


def _tags_together(rows: Sequence[Mapping[str, object]], example: str, wanted: Wanted) -> Shaped:
    """Tags that stand in several columns, or inside an object."""
    asked = [*Template.from_text(wanted.template).columns, wanted.text_column or "", wanted.tags_column or ""]
    found = (find_tags_apart(rows, asked) or find_tags_inside(rows, asked)) if wanted.join_tags else None

    def shape(raw: Raw) -> Raw | Problem:
        if not isinstance(raw.row, dict):
            return _no_object(raw, example)
        return Raw(raw.place, found.joined(raw.row)) if found else raw

    return Shaped(shape, found.said if found else "")


def _shape_of_lists(rows: Sequence[object], example: str) -> Shaped:
    names = rows[0] if isinstance(rows[0], list) else []
    if all(isinstance(name, str) for name in names) and names_something(names) and len(set(names)) == len(names):
        return Shaped(lambda raw: _list_row(raw, example, names), "rows are lists, and the first one names the columns")
    return Shaped(lambda raw: _list_row(raw, example), "rows are lists: their items are called 'column 1' and so on")


def _no_object(raw: Raw, example: str) -> Problem:
    return Problem(raw.place, f"the row is {kind_of(raw.row)}, not an object", f"Write {example}, {SKIP}")


def _text_row(raw: Raw, example: str) -> Raw | Problem:
    return Raw(raw.place, {"text": raw.row}) if isinstance(raw.row, str) else _no_object(raw, example)


def _list_row(raw: Raw, example: str, names: Sequence[str] = ()) -> Raw | Problem | None:
    if not isinstance(raw.row, list):
        return _no_object(raw, example)
    if names and raw.row == names:
        return None
    beyond = (f"column {number}" for number in range(len(names) + 1, len(raw.row) + 1))
    return Raw(raw.place, dict(zip([*names, *beyond], raw.row, strict=False)))


def _last_pair(raw: Raw, columns: Sequence[str]) -> Raw | Problem:
    row = raw.row if isinstance(raw.row, Mapping) else {"messages": raw.row}
    pair = last_pair(turn for name in columns for turn in turns_of(row.get(name)))
    if pair is None:
        named = " and ".join(map(repr, columns))
        return Problem(raw.place, f"column {named} has no user turn with a reply", f"Add one, {SKIP}")
    return Raw(raw.place, {**row, "prompt": pair[0], "completion": pair[1]})


def _inner_column(rows: Sequence[Mapping[str, object]]) -> str | None:
    """The column whose objects have the text, where none stands beside it: {"row": {"quote": ...}}."""
    if find_text(list(rows[0])[:_MOST_NAMES]) or find_pair(list(rows[0])[:_MOST_NAMES]):
        return None
    return next((name for name in rows[0] if all(_has_text(row.get(name)) for row in rows)), None)


def _has_text(value: object) -> bool:
    return isinstance(value, Mapping) and any(isinstance(value[name], str) for name in find_text(list(value)))


def _unfolded(raw: Raw, column: str, example: str) -> Raw | Problem:
    inner = raw.row.get(column) if isinstance(raw.row, Mapping) else None
    if not isinstance(raw.row, Mapping) or not isinstance(inner, Mapping):
        return _no_object(raw, example)
    return Raw(raw.place, {name: value for name, value in raw.row.items() if name != column} | dict(inner))


def _parsed(text: object) -> object:
    """The object that was written as JSON into a text."""
    try:
        return json.loads(text) if isinstance(text, str) and text[:1] == "{" else None
    except (ValueError, RecursionError):
        return None


def _read_again(raw: Raw, example: str) -> Raw | Problem:
    row = _parsed(raw.row)
    return Raw(raw.place, row) if isinstance(row, dict) else _no_object(raw, example)
