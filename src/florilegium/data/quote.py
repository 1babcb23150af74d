"""A Quote is one row as it is trained and as it is generated: exactly the JSON object, with the template's columns and
no others.

    {"quote": "Be kind.", "tags": ["kindness", "life"]}

This file holds what one value of a Quote may be, and how a value from a file becomes one. Text loses the white space at
its ends and nothing else: no Unicode normalisation, inner line breaks stay. A list column is a list of items, or text
split on commas; an item with a comma inside becomes two, since a list is trained as `"kindness, life"` and could not be
told apart again. Empty and repeated items go, the order stays. What can be neither read nor repaired without guessing
is refused, and the message names the column."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from florilegium.errors import DataError

Value = str | list[str]
Quote = dict[str, Value]

FEW_ROWS = 10
_WORDS = 3  # of other columns, on average, that tell rows apart
SKIP = "or drop such rows with --skip-bad-rows"

# A tokenizer written in Rust panics on a lone surrogate, and C strings end at NUL: neither may get past this room.
_UNTRAINABLE = re.compile("[\x00\ud800-\udfff]")


def clean_text(column: str, value: object) -> str:
    """`value` without the white space at its ends.

    Raises: DataError when it is not text, or holds a NUL or a lone surrogate.
    """
    if not isinstance(value, str):
        raise DataError(f"column {column!r} {_holds(value)}, expected text", f"Write text there, {SKIP}")
    _refuse_untrainable(column, value)
    return value.strip()


def clean_list(column: str, value: object) -> list[str]:
    """The items of a list, or of text split on commas: stripped, not empty, each once, in their order.

    Raises: DataError when it is neither, when an item is not text, or when an item holds a NUL or a lone surrogate.
    """
    if isinstance(value, str):
        _refuse_untrainable(column, value)
        return split_items(value)
    if not isinstance(value, list | tuple):
        raise DataError(f"column {column!r} {_holds(value)}, expected a list of strings", f"Write [] for none, {SKIP}")
    text = text_of_items(value)
    if text is None:
        number, item = next((number, item) for number, item in enumerate(value, 1) if not isinstance(item, str))
        raise DataError(f"column {column!r}: item {number} {_is(item)}, not text", f"Put it in quotes, {SKIP}")
    _refuse_untrainable(column, text)
    return split_items(text)


def text_of_items(items: Iterable[object]) -> str | None:
    """All items with commas between, to look at them in one go; None where one of them is no text."""
    try:
        return ",".join(items)  # type: ignore[arg-type]  # the join itself finds out, at a tenth of asking each
    except TypeError:
        return None


def split_items(text: str) -> list[str]:
    """The items that `text` lists: split on commas, stripped, not empty, each once."""
    items = [item for piece in text.split(",") if (item := piece.strip())]
    return list(dict.fromkeys(items)) if len(items) > 1 else items


def join_items(value: Value) -> str:
    """A value as it stands in the rendered text."""
    return value if isinstance(value, str) else ", ".join(value)


def first_text(quote: Quote) -> str:
    """What tells a quote from others: its first column of text, which tags may stand before; the first where all are
    lists."""
    values = iter(quote.values())
    first = next(values)
    return first if isinstance(first, str) else next((v for v in values if isinstance(v, str)), join_items(first))


def telling_texts(quotes: Sequence[Quote], on: str = "auto") -> list[str]:
    """For each quote what tells it from others: its first column of text. Where a third of ten quotes or more have the
    same there, an instruction, and say more than a word or two in other columns of text, those are told apart by these,
    unless `on` is "first-column"."""
    texts = [first_text(quote) for quote in quotes]
    if on == "first-column" or len(texts) < FEW_ROWS:
        return texts
    (same, count), *_ = Counter(texts).most_common(1)
    if 3 * count <= len(texts):
        return texts
    others = {i: _other_texts(quotes[i]) for i, text in enumerate(texts) if text == same}
    if sum(len(text.split()) for text in others.values()) < _WORDS * count:
        return texts  # the same quote with other tags is the same quote
    return [others.get(i, text) for i, text in enumerate(texts)]


def _other_texts(quote: Quote) -> str:
    texts = [value for value in quote.values() if isinstance(value, str)]
    return "\n".join(texts[1:])


def first_doubled(names: Iterable[str]) -> str | None:
    """The first name that stands there a second time."""
    seen: set[str] = set()  # `list.count` would take hours on a hostile header of a mebibyte
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def kind_of(value: object) -> str:
    """What a JSON value is, in a user's words."""
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def _refuse_untrainable(column: str, text: str) -> None:
    if text.isascii() and "\x00" not in text:
        return  # nearly every row, and twenty times as quick as the search
    found = _UNTRAINABLE.search(text)
    if found:
        what = "a NUL character" if found[0] == "\x00" else f"half of a surrogate pair, \\u{ord(found[0]):04x}"
        mend = "Remove it (--fix-encoding takes NULs out)" if found[0] == "\x00" else "Remove it"
        raise DataError(f"column {column!r} holds {what}", f"{mend}, {SKIP}")


def _holds(value: object) -> str:
    return _is(value) if value is None else f"holds {kind_of(value)}"


def _is(value: object) -> str:
    return f"is {kind_of(value)}"
