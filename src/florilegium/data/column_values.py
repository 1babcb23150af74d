"""What a column's values say about it, where its name does not: how long they are, of what kind, how often they repeat.

A text is long and seldom the same; a tag is short and comes again; an address, a date, a number or a mark of the row
(uuid, hash) is neither."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from florilegium.data.cell_lists import read_printed, repeats
from florilegium.data.cell_values import is_nothing

_MARK = re.compile(
    r"https?://\S+|www\.\S+|[\w.+-]+@[\w-]+\.\S+"  # addresses
    r"|[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}|[0-9a-fA-F]{16,}"  # uuid, hashes
    r"|\d{1,4}[-./]\d{1,2}[-./]\d{1,4}(?:[T ]\d.*)?|[-+]?[\d.,]+%?"  # dates, numbers
)
# "Ada Example", "J. R. Example": two words or more, each with a capital.
_PERSON = re.compile(r"[^\W\d_a-z][\w.'’-]*(?: (?:de|la|van|von|der|of|al|bin|[^\W_a-z][\w.'’-]*))+,?")
# Signs of scripts without blanks between words: two or three make a word.
_SIGN = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
_LABEL = re.compile(r"-?\d{1,2}")
_MOST_VALUES = 300


@dataclass(frozen=True)
class Look:
    """A column's first values in numbers; `words` and `repeats` are means, the others shares of what is filled."""

    filled: int
    words: float
    item_words: float
    repeats: float
    marks: float
    lists: float
    objects: float
    people: float
    distinct: int = 0  # items that differ
    labels: float = 0.0  # numbers of one or two digits

    @property
    def may_be_text(self) -> bool:
        return bool(self.filled) and self.marks < 0.5 and self.objects < 0.5

    @property
    def is_long_text(self) -> bool:
        return self.may_be_text and self.words >= 3

    @property
    def may_be_tags(self) -> bool:
        """What a column that is called so must still be: no addresses, no objects, no essays. Numbers may be labels."""
        return bool(self.filled) and self.objects < 0.5 and self.item_words <= 8

    @property
    def has_short_items(self) -> bool:
        return bool(self.filled) and self.item_words <= 4

    @property
    def looks_like_tags(self) -> bool:
        comes_again = self.filled >= 8 and self.repeats >= 2 and self.people < 0.5
        says_something = self.has_short_items and self.marks < 0.5 and not self.objects and self.distinct > 1
        return says_something and (self.lists > 0.5 or comes_again)

    @property
    def looks_like_numbered_labels(self) -> bool:
        """A few small numbers that come again and again: 0 and 4, 1 to 5."""
        return self.filled >= 8 and self.labels == 1.0 and 1 < self.distinct <= 20 and self.repeats >= 3


def look_at(name: str, rows: Sequence[Mapping[str, object]]) -> Look:
    """The first few hundred values of a column."""
    values = [row[name] for row in rows[:_MOST_VALUES] if name in row and not is_nothing(row[name]) and row[name] != ""]
    count = len(values)
    if not count:
        return Look(0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    items = [item for value in values for item in _items(value)]
    texts = [" ".join(value) if isinstance(value, list) else value for value in map(_flat, values)]
    return Look(
        filled=count,
        words=sum(map(count_words, texts)) / count,
        item_words=sum(map(count_words, items)) / len(items) if items else 0.0,
        repeats=repeats(items),
        marks=sum(_MARK.fullmatch(text.strip()) is not None for text in texts) / count,
        lists=sum(isinstance(value, list | tuple) or _is_printed(value) for value in values) / count,
        objects=sum(_is_object(value) for value in values) / count,
        distinct=len(set(items)),
        labels=sum(_LABEL.fullmatch(text.strip()) is not None for text in texts) / count,
        people=sum(_PERSON.fullmatch(text.strip()) is not None for text in texts) / count,
    )


def count_words(text: str) -> int:
    """Words between blanks; of Chinese, Japanese, Thai a word for every two signs."""
    signs = 0 if text.isascii() else len(_SIGN.findall(text))
    return len(text.split()) if not signs else len(_SIGN.sub(" ", text).split()) + (signs + 1) // 2


def _flat(value: object) -> str | list[str]:
    return [str(item) for item in value] if isinstance(value, list | tuple) else str(value)


def _items(value: object) -> Iterable[str]:
    if isinstance(value, list | tuple):
        return [str(item) for item in value]
    text = str(value)
    printed = read_printed(text)
    return printed if printed is not None else [piece for piece in re.split(r"[,;|，、،]", text) if piece.strip()]


def _is_printed(value: object) -> bool:
    return isinstance(value, str) and read_printed(value) is not None


def _is_object(value: object) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and all(isinstance(item, Mapping) and "name" not in item for item in value)
    return isinstance(value, Mapping) and "text" not in value
