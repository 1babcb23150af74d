"""Plain text that is a table: the same sign in each line, and columns on its sides.

    quote<tab>tags              a first line that names columns
    i am so glad;joy            no names, but a tab in each line, or short items on one side of the sign that come again
    Be kind. ->: life, love     texts as they are trained: what stands behind the separator are tags

Prose has commas and semicolons too, but not as many in each line."""

from __future__ import annotations

import csv
from collections.abc import Sequence

from florilegium.data.column_names import find_tags, find_text
from florilegium.data.column_values import look_at
from florilegium.data.csv_dialect import names_something

ARROW = "->:"
_SIGNS, _ALIKE, _FEWEST = "\t|;,", 0.95, 5


def is_table(lines: Sequence[str]) -> bool:
    """Whether the filled lines of a file are rows with columns."""
    return any(_is_table_at(sign, lines) for sign in _SIGNS)


def is_rendered(lines: Sequence[str]) -> bool:
    """Whether the lines are rows as the default template writes them."""
    return bool(lines) and all(line.count(ARROW) == 1 and not line.startswith(ARROW) for line in lines)


def _is_table_at(sign: str, lines: Sequence[str]) -> bool:
    if sum(sign in line for line in lines) < _ALIKE * len(lines):
        return False
    try:
        rows = list(csv.reader(lines, delimiter=sign, skipinitialspace=True))
    except csv.Error:
        return False
    width = len(rows[0]) if len(rows) > 1 else 0
    if width < 2 or sum(len(row) == width and bool(row[0]) for row in rows) < _ALIKE * len(rows):
        return False
    if names_something(rows[0]) and find_text(rows[0]) and (find_tags(rows[0]) or sign == "\t"):
        return True
    return sign != "," and len(rows) >= _FEWEST and (sign == "\t" or _has_labels(rows, width))


def _has_labels(rows: Sequence[Sequence[str]], width: int) -> bool:
    """Whether a column at an end of the rows holds short items that come again."""
    as_rows = [{str(i): cell.strip() for i, cell in enumerate(row)} for row in rows]
    return any(look_at(str(i), as_rows).looks_like_tags for i in (0, width - 1))
