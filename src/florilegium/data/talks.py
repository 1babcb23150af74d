"""Talks between a user and a model, in the forms in which chat files hold them, and the last pair of turns in one.

    {"messages": [{"role": "user", "content": ...}, ...]}            OpenAI; ShareGPT's "from" and "value"
    {"conversation": [{"input": ..., "output": ...}, ...]}           a pair a turn
    {"prompt": [{"role": ...}], "chosen": [{"role": ...}], ...}      TRL's, the answer by itself

A turn that says nothing (a call of a tool) answers nothing: the answer is the next one that says something."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

from florilegium.data.column_names import find_pair

_CHAT = ("messages", "conversations", "conversation", "dialog", "dialogue", "turns", "chat")
_BEFORE, _AFTER, _NEVER = ("prompt",), ("completion", "chosen", "response"), ("rejected",)
_ASKS, _ANSWERS = ("user", "human", "prompter", "instruction"), ("assistant", "gpt", "bot", "model", "chatgpt", "ai")
Turn = tuple[str, str]


def talk_columns(rows: Sequence[Mapping[str, object]]) -> list[str]:
    """The columns that make a talk together, in their order; none where there is no talk."""
    talks = [name for name in rows[0] if all(turns_of(row.get(name)) for row in rows)]
    called = [name for name in _CHAT if name in talks]
    if called:
        return called[:1]
    answers = [name for name in _AFTER if name in talks] or [n for n in talks if n not in (*_BEFORE, *_NEVER)]
    columns = [*(name for name in _BEFORE if name in talks), *answers[:1]]
    pairs = [last_pair(turn for name in columns for turn in turns_of(row.get(name))) for row in rows]
    return columns if answers and any(pairs) else []


def turns_of(value: object) -> list[Turn]:
    """Who speaks, and what, turn by turn; nothing where `value` is no talk."""
    if not isinstance(value, list | tuple):
        return []
    turns = [_turns(turn) for turn in value]
    return list(chain.from_iterable(turns)) if all(turns) else []


def last_pair(turns: Iterable[Turn]) -> Turn | None:
    """What was asked last and answered, and the answer."""
    asked = pair = None
    for who, what in turns:
        if who in _ASKS:
            asked = what
        elif who in _ANSWERS and asked is not None and what.strip():
            pair, asked = (asked, what), None
    return pair


def _turns(turn: object) -> list[Turn]:
    """The turn of one who speaks, or two that stand in one object under the names of a pair."""
    if not isinstance(turn, Mapping):
        return []
    who, what = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
    if isinstance(what, list):  # parts of text, as newer files have them
        what = "\n".join(str(part.get("text", "")) for part in what if isinstance(part, Mapping))
    if isinstance(who, str) and isinstance(what, str | None):
        return [(who.casefold(), what or "")]
    names = find_pair([name for name in turn if isinstance(turn[name], str)])
    return [("user", turn[names[0]]), ("assistant", turn[names[1]])] if names else []
