"""One value of a file to the text or the tags of a quote.

    text    text as it is; a list of texts joined by line breaks (the lines of a poem, the turns of a talk); numbers as written
    tags    a list, a printed list, or text with separators; null, NaN and what is missing are no tags

Numbers and booleans are labels, and labels are text: 3 is "3", true is "true". What cannot be either (an object) is
handed on as it is, for `quote.py` to refuse by name."""

from __future__ import annotations

from collections.abc import Mapping

from florilegium.data.cell_lists import Separator, name_in, read_printed, split_at
from florilegium.data.quote import text_of_items

MISSING = object()


def is_nothing(value: object) -> bool:
    """null, NaN, or a key that is not there."""
    return value is None or value is MISSING or (isinstance(value, float) and value != value)


def label_text(value: object) -> object:
    """A number or a boolean as text; anything else as it is."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else str(value)
    return str(value) if isinstance(value, int) else value


def as_text(value: object, *, printed: bool = False) -> object:
    """A text column's value: lists become lines, and so do printed ones where the column has them (`printed`)."""
    if isinstance(value, str):
        items = read_printed(value) if printed else None
        return value if items is None else "\n".join(items)
    if isinstance(value, list | tuple):
        parts = [as_text(item) for item in value if not is_nothing(item)]
        joint = "\n\n" if any(isinstance(item, list | tuple) for item in value) else "\n"
        return joint.join(parts) if all(isinstance(part, str) for part in parts) else value  # type: ignore[arg-type]
    if isinstance(value, Mapping) and "text" in value and is_texts(value["text"]):
        texts = value["text"]  # as SQuAD writes its answers: {"text": ["one"], "answer_start": [3]}
        return texts if isinstance(texts, str) else str(texts[0]) if texts else ""
    return label_text(value)


def is_texts(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list | tuple) and all(isinstance(item, str) for item in value))


def as_items(value: object, separator: Separator = "") -> object:
    """A tags column's value: a list of text, as far as it can be made one."""
    if is_nothing(value):
        return []
    if isinstance(value, str):
        return _lines(split_at(value, separator))
    if isinstance(value, list | tuple):
        joined = None if separator else text_of_items(value)
        if joined is not None and "\n" not in joined:
            return value
        items = [_name(item) for item in value if not is_nothing(item)]
        if not all(isinstance(item, str) for item in items):
            return items
        texts: list[str] = items  # type: ignore[assignment]
        return _lines(piece for item in texts for piece in (split_at(item, separator) if separator else [item]))
    text = label_text(value)
    return [text] if isinstance(text, str) else value


def _lines(items: object) -> list[str]:
    return [line for item in items for line in (item.split("\n") if "\n" in item else (item,))]  # type: ignore[attr-defined]


def _name(item: object) -> object:
    if isinstance(item, Mapping):
        name = name_in(item)
        return item if name is None else name
    return label_text(item)
