"""Columns that could have been taken as well: named, so that a wrong guess is seen and one flag mends it.

text,category,mood          the tags are 'category'; 'mood' could be tags, too (--tags-column)
quote_en,quote_de,tags      the text is 'quote_en'; 'quote_de' could be the text, too (--text-column)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from florilegium.data.column_choice import Wanted
from florilegium.data.column_names import find_tags, is_about_the_row
from florilegium.data.column_values import look_at
from florilegium.errors import one_line

_MOST_NAMES, _SHOWN = 50, 4


def rivals(
    names: Sequence[str], rows: Sequence[Mapping[str, object]], wanted: Wanted, text: str, tags: str | None
) -> str:
    """What else could be the text and the tags, in half a sentence; nothing of what the user has named."""
    free = [name for name in names[:_MOST_NAMES] if name not in (text, tags) and not is_about_the_row(name)]
    looks = {name: look_at(name, rows) for name in (*free, text)}
    called = find_tags(free)
    as_tags = [n for n in free if looks[n].looks_like_tags or (n in called and looks[n].may_be_tags)] if tags else []
    as_text = [
        n for n in free if n not in as_tags and looks[n].is_long_text and 2 * looks[n].words >= looks[text].words
    ]
    said = "" if wanted.text_column else _could_be(as_text, "the text", "--text-column")
    return said if wanted.tags_column else said + _could_be(as_tags, "tags", "--tags-column")


def _could_be(names: Sequence[str], what: str, flag: str) -> str:
    shown = ", ".join(f"'{one_line(name)}'" for name in names[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"; {shown}{more} could be {what}, too ({flag} NAME)" if names else ""
