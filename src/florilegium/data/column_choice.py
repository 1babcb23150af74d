"""What was decided about columns: what the user asked for, and for each placeholder where its values come from and how
they are read.

    {quote} ->: {tags}    Column("quote", source="Quote Text")    Column("tags", source="Genre", separator=";")"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from florilegium.data.cell_lists import Separator, read_printed
from florilegium.data.cell_values import MISSING, as_items, as_text, is_nothing
from florilegium.data.quote import text_of_items
from florilegium.data.template import DEFAULT_TEMPLATE, Template

Row = Mapping[str, object]


@dataclass(frozen=True)
class Wanted:
    """What the user said about columns."""

    template: str = DEFAULT_TEMPLATE
    text_column: str | None = None
    tags_column: str | None = None
    tags_separator: str | None = None
    join_tags: bool = True


@dataclass(frozen=True)
class Column:
    """A placeholder of the template, the file's column for it, and how its values are read."""

    name: str
    source: str
    is_main: bool = False
    is_tags: bool = False
    separator: Separator = ""
    printed: bool = False

    def read(self, row: Row) -> object:
        """The value as the template takes it; `MISSING` where a row lacks its main column."""
        value = row.get(self.source, MISSING)
        if self.is_tags:
            return as_items(value, self.separator)
        if isinstance(value, str) and not self.printed:
            return value
        if self.is_main and not isinstance(value, str | list | tuple | Mapping):
            return value  # a null or a number is no text to train on, and `quote.py` says so
        return "" if is_nothing(value) else as_text(value, printed=self.printed)


@dataclass(frozen=True)
class Choice:
    """The template that these rows are trained by, and where its columns come from."""

    template: Template
    columns: tuple[Column, ...]
    author: str | None
    said: str
    split: str | None = None

    @property
    def sources(self) -> tuple[str, ...]:
        """The file's columns that are read."""
        names = [column.source for column in self.columns]
        return tuple(dict.fromkeys([*names, *filter(None, (self.author, self.split))]))

    def pick(self, row: Row) -> dict[str, object]:
        """What the template takes of a row."""
        return {column.name: value for column in self.columns if (value := column.read(row)) is not MISSING}

    def has_comma_in_item(self, row: Row) -> bool:
        """Whether a list of tags has an item that its commas part: what is trained is "one, two, three"."""
        return any(_has_comma(row.get(column.source)) for column in self._tag_columns)

    @cached_property
    def _tag_columns(self) -> list[Column]:
        return [column for column in self.columns if column.is_tags]

    def in_the_files_words(self, cause: str) -> str:
        """A message that names the template's column, with the name that the file has for it."""
        for column in self.columns:
            if column.source != column.name:
                cause = cause.replace(f"column {column.name!r}", f"column {column.source!r}")
        return cause


def _has_comma(value: object) -> bool:
    items = read_printed(value) if isinstance(value, str) and value[-1:] in ("]", "}") else value
    if not isinstance(items, list | tuple) or (
        (text := text_of_items(items)) is not None and text.count(",") < len(items)
    ):
        return False  # nearly every row: no commas but those between
    return any(isinstance(item, str) and "," in item.strip(", ") for item in items)
