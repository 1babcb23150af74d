"""Tags that stand in several columns, read as one.

    quote,tag1,tag2          Be kind.,love,life      ->  tags ["love", "life"]
    quote,love,life,humor    Be kind.,1,1,0          ->  tags ["love", "life"]      (a column of 0 and 1 for each tag)

Only where no column is called as tags are, none of these is asked for by name, and a text stands beside them; and it is
said which columns were put together."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from florilegium.data.cell_values import as_items, is_nothing
from florilegium.data.column_names import find_tags, folded, is_about_the_row, is_called_tags, same_name
from florilegium.data.column_values import look_at
from florilegium.errors import one_line

FEWEST_MARKS = 3  # columns of 0 and 1: one or two are more often flags
_MOST_NAMES, _SHOWN = 200, 6
_NUMBERED = re.compile(r"(.*?\D)[\s_./-]*[\[(]?\d{1,2}[\])]?")
_YES, _NO = frozenset({"1", "1.0", "true", "yes"}), frozenset({"0", "0.0", "false", "no", ""})
_PREFIX = re.compile(r"(?:tags?|labels?|categor(?:y|ies)|topics?|genres?|is)[\s_./:-]+(?=\S)", re.IGNORECASE)


@dataclass(frozen=True)
class TagsApart:
    """The columns that are tags together; `names` are the tags that columns of 0 and 1 stand for."""

    columns: tuple[str, ...]
    names: tuple[str, ...] = ()

    @property
    def said(self) -> str:
        shown = [f"'{one_line(column)}'" for column in self.columns[:_SHOWN]]
        if len(self.columns) > _SHOWN:
            shown = [*shown[:-1], f"{len(self.columns) - _SHOWN + 1} more"]
        listed = f"{', '.join(shown[:-1])} and {shown[-1]}"
        how = "hold 0 or 1: the tags are the names of those with 1" if self.names else "are read as one, 'tags'"
        return f"{listed} {how}"

    def joined(self, row: Mapping[str, object]) -> dict[str, object]:
        """The row with one column of tags instead of these."""
        tags: list[object] = []
        if self.names:
            tags = [tag for column, tag in zip(self.columns, self.names, strict=True) if is_yes(row.get(column))]
        else:
            for column in self.columns:
                found = as_items(row.get(column), "")
                tags += found if isinstance(found, list) else []
        return {name: value for name, value in row.items() if name not in self.columns} | {"tags": tags}


def find_tags_apart(rows: Sequence[Mapping[str, object]], asked: Sequence[str]) -> TagsApart | None:
    """What to put together in rows such as these; `asked` are columns that the user has named."""
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if isinstance(name, str)]
    if len(names) > _MOST_NAMES or any(is_called_tags(name) for name in names):
        return None
    found = _numbered(names, rows) or _marked(names, rows)
    if found is None or any(same_name(name, found.columns) for name in asked):
        return None
    others = [name for name in names if name not in found.columns]
    if find_tags(others) or not any(look_at(name, rows).is_long_text for name in others):
        return None
    return found


def _numbered(names: Sequence[str], rows: Sequence[Mapping[str, object]]) -> TagsApart | None:
    """`tag1`, `tag2`; `Label 1`, `Label 2`: one name that tags have, and numbers."""
    groups: dict[str, list[str]] = {}
    for name in names:
        if (stem := _NUMBERED.fullmatch(name.strip())) and is_called_tags(stem[1]):
            groups.setdefault(folded(stem[1]), []).append(name)
    if len(groups) != 1:
        return None
    (columns,) = groups.values()
    looks = [look_at(name, rows) for name in columns]
    sound = all(look.may_be_tags for look in looks if look.filled) and any(look.filled for look in looks)
    return TagsApart(tuple(columns)) if len(columns) > 1 and sound else None


def _marked(names: Sequence[str], rows: Sequence[Mapping[str, object]]) -> TagsApart | None:
    """Columns of nothing but 0 and 1, a tag each."""
    columns, used = [], 0
    for name in names:
        marks = {_mark(row.get(name)) for row in rows}
        if marks <= _YES | _NO and marks & _NO and marks != {""} and not is_about_the_row(name):
            columns.append(name)
            used += bool(marks & _YES)  # a rare tag may be none of the first rows'
    if len(columns) < FEWEST_MARKS or used < 2:
        return None
    bare = [_PREFIX.sub("", name.strip(), count=1) for name in columns]
    tags = bare if all(short != name.strip() for short, name in zip(bare, columns, strict=True)) else columns
    return TagsApart(tuple(columns), tuple(tag.replace("_", " ").strip() for tag in tags))


def is_mark(value: object) -> bool:
    """Whether it says yes or no to a tag."""
    return _mark(value) in _YES | _NO


def is_yes(value: object) -> bool:
    return _mark(value) in _YES


def _mark(value: object) -> str:
    return "" if is_nothing(value) else str(value).strip().casefold()
