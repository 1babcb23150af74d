"""Rows that are no objects with a text in them, made such: lists, bare texts, and talks.

    ["a text", ["tag"]]                                       {"column 1": ..., "column 2": ...}
    "a text"                                                  {"text": ...}
    {"messages": [{"role": "user", "content": ...}, ...]}     {"prompt": ..., "completion": ...}: the last pair of turns

The first rows decide which it is, for the whole file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from florilegium.data.quote import SKIP, kind_of
from florilegium.data.raw_rows import Problem, Raw

_CHAT = ("messages", "conversations", "conversation", "dialog", "dialogue", "turns", "chat")
_ASKS, _ANSWERS = ("user", "human", "prompter", "instruction"), ("assistant", "gpt", "bot", "model", "chatgpt", "ai")

Shape = Callable[[Raw], "Raw | Problem"]


@dataclass(frozen=True)
class Shaped:
    """How rows become objects, and what is to be said of it."""

    shape: Shape
    said: str = ""


def shape_of(rows: Sequence[object], example: str) -> Shaped:
    """What rows such as these need. `example` is a row as it should be, for messages."""
    objects = [row for row in rows if isinstance(row, Mapping)]
    if objects:
        column = next((name for name in _CHAT if all(_is_talk(row.get(name)) for row in objects[:20])), None)
        if column:
            said = f"'{column}' holds talks: the last turn and what it answers are trained, as prompt and completion"
            return Shaped(lambda raw: _last_pair(raw, column), said)
        return Shaped(lambda raw: raw if isinstance(raw.row, dict) else _no_object(raw, example))
    if rows and all(isinstance(row, str) for row in rows):
        return Shaped(lambda raw: _text_row(raw, example))
    if rows and all(isinstance(row, list) and row for row in rows):
        return Shaped(
            lambda raw: _list_row(raw, example), "rows are lists: their items are called 'column 1' and so on"
        )
    return Shaped(lambda raw: raw if isinstance(raw.row, dict) else _no_object(raw, example))


def _no_object(raw: Raw, example: str) -> Problem:
    return Problem(raw.place, f"the row is {kind_of(raw.row)}, not an object", f"Write {example}, {SKIP}")


def _text_row(raw: Raw, example: str) -> Raw | Problem:
    return Raw(raw.place, {"text": raw.row}) if isinstance(raw.row, str) else _no_object(raw, example)


def _list_row(raw: Raw, example: str) -> Raw | Problem:
    if not isinstance(raw.row, list):
        return _no_object(raw, example)
    return Raw(raw.place, {f"column {number}": item for number, item in enumerate(raw.row, 1)})


def _is_talk(value: object) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(_turn(turn) is not None for turn in value)


def _turn(turn: object) -> tuple[str, str] | None:
    """Who speaks, and what: OpenAI's role and content, or ShareGPT's from and value."""
    if not isinstance(turn, Mapping):
        return None
    who, what = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
    if isinstance(what, list):  # parts of text, as newer files have them
        what = "\n".join(str(part.get("text", "")) for part in what if isinstance(part, Mapping))
    return (who.casefold(), what or "") if isinstance(who, str) and isinstance(what, str | None) else None


def _last_pair(raw: Raw, column: str) -> Raw | Problem:
    row = raw.row if isinstance(raw.row, Mapping) else {}
    value = row.get(column)
    turns: Iterable[object] = value if isinstance(value, list | tuple) else ()
    asked = pair = None
    for turn in map(_turn, turns):
        if turn and turn[0] in _ASKS:
            asked = turn[1]
        elif turn and turn[0] in _ANSWERS and asked is not None:
            pair, asked = (asked, turn[1]), None
    if pair is None:
        return Problem(raw.place, f"column {column!r} holds no turn of a user that is answered", f"Add one, {SKIP}")
    return Raw(raw.place, {**row, "prompt": pair[0], "completion": pair[1]})
