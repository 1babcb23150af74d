"""Which columns of a file are the text and the tags: by their names, else by what is in them, and said in one line.

    {"quote": ..., "tags": ...}                         as they are called
    {"Quote": ..., "Category": ...}                     by names, as in column_names.py
    {"prompt": ..., "completion": ...}                  a known pair: the template is made of it
    {"a": "a long text", "b": "love; life"}             by values: the longest texts, the short ones that repeat
    {"text": ...}                                       no tags: the text alone is trained, and that is said

`--text-column` and `--tags-column` win over all of it. A template that names other columns is held to them, without
regard to case, blanks and hyphens. The first thousand rows decide, for the whole file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from florilegium.data.cell_lists import BRACKETS, find_separator, name_of_separator, read_printed
from florilegium.data.cell_values import is_nothing
from florilegium.data.column_choice import Choice, Column, Row, Wanted
from florilegium.data.column_names import (
    find_author,
    find_pair,
    find_tags,
    find_text,
    folded,
    is_about_the_row,
    is_author,
    same_name,
)
from florilegium.data.column_rivals import rivals
from florilegium.data.column_values import Look, look_at
from florilegium.data.raw_rows import no_such_column
from florilegium.data.split_column import split_column
from florilegium.data.template import DEFAULT_TEMPLATE, Template
from florilegium.data.template_parser import placeholder_for
from florilegium.errors import UsageError, one_line

_OURS = {"quote", "tags"}
_UNNAMED = re.compile(r"column \d+")  # as a file without a header has them
_MOST_NAMES = 200  # a row may bring 100,000 keys


def choose_columns(rows: Sequence[Row], wanted: Wanted, place: str, fixed: Template | None = None) -> Choice:
    """What to read of rows such as these. `fixed` is the template that earlier files gave: what these rows lack of it,
    but for the text, is nothing.

    Raises: DataError, at `place`, where columns are missing or cannot be told."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    asked = [*Template.from_text(wanted.template).columns, *filter(None, (wanted.text_column, wanted.tags_column))]
    split = split_column(names[:_MOST_NAMES], rows, asked)
    names = [name for name in names if name != split]
    author = "author" if "author" in names else find_author(names[:_MOST_NAMES])
    template = fixed or Template.from_text(wanted.template)
    sources = _sources(names, rows, template, wanted, place)
    if fixed and fixed.main_column in sources:
        sources = {name: sources.get(name, name) for name in fixed.columns}
    text = template.text if sources.keys() == set(template.columns) else _joined(sources)
    if fixed and text != fixed.text:
        raise no_such_column(place, names, fixed.columns, "Give files with the same columns").error()
    columns = [_column(rows, name, sources, wanted, fixed) for name in Template.from_text(text).columns]
    template = Template.from_text(text, [column.name for column in columns if column.is_tags])
    columns = [replace(column, is_main=column.name == template.main_column) for column in columns]
    said = _sentence(template, columns, wanted) + _typed_escapes(wanted.template)
    if not fixed and wanted.template == DEFAULT_TEMPLATE and len(columns) <= 2 and "quote" in sources:
        said += rivals(names, rows, wanted, sources["quote"], sources.get("tags"))
    return Choice(template, tuple(columns), author, said, split)


def _sources(names: list[str], rows: Sequence[Row], template: Template, wanted: Wanted, place: str) -> dict[str, str]:
    """For each placeholder the file's column. What is left out is not there and need not be; other placeholders make
    another template."""
    given = _given(names, template, wanted, place)
    exact = {name: source for name in template.columns if (source := given.get(name) or same_name(name, names))}
    if len(exact) == len(template.columns):
        return exact
    guess = (
        _guess(names, rows, exact, pairs=template.text == DEFAULT_TEMPLATE) if set(template.columns) <= _OURS else {}
    )
    if template.text != DEFAULT_TEMPLATE:
        guess = {name: source for name, source in guess.items() if name in template.columns}
    if not guess:
        raise no_such_column(place, names, template.columns, _advice(names, rows)).error()
    return guess


def _given(names: list[str], template: Template, wanted: Wanted, place: str) -> dict[str, str]:
    given: dict[str, str] = {}
    text = "quote" if "quote" in template.columns else next((c for c in template.columns if c != "tags"), "tags")
    tags = "tags" if "tags" in template.columns else template.columns[-1]
    if wanted.tags_column and text == tags:
        raise UsageError(
            f"--tags-column {wanted.tags_column}: the template {template.text!r} has no place for tags",
            "Leave --tags-column out, or add {tags} to --template",
        )
    for flag, asked, name in (("--text-column", wanted.text_column, text), ("--tags-column", wanted.tags_column, tags)):
        if asked:
            found = same_name(asked, names)
            if found is None:
                raise no_such_column(place, names, (asked,), f"Type {flag} and one of these").error()
            given[name] = found
    return given


def _guess(names: list[str], rows: Sequence[Row], known: dict[str, str], *, pairs: bool = True) -> dict[str, str]:
    """Columns for `{quote} ->: {tags}`: by a pair, by names, by values. Without a text there is none at all."""
    names = [name for name in names[:_MOST_NAMES] if len(name) <= 80]
    looks = {name: look_at(name, rows) for name in names}
    if pairs and not known and (pair := find_pair(names)):
        return {placeholder_for(name): name for name in _with_input(pair, names, rows)}
    free = [name for name in names if name not in known.values()]
    text = known.get("quote") or next((name for name in find_text(free) if looks[name].may_be_text), None)
    if text is None:
        called_tags = find_tags(free)
        unnamed = [n for n in free if looks[n].is_long_text and not is_about_the_row(n) and n not in called_tags]
        text = max(unnamed, key=lambda n: looks[n].words, default=None)
    if text is None:
        return {}
    free = [name for name in free if name != text]
    tags = known.get("tags") or next((name for name in find_tags(free) if looks[name].may_be_tags), None)
    if tags is None:
        called_text = find_text(free)
        unnamed = [n for n in free if looks[n].looks_like_tags and not is_about_the_row(n) and n not in called_text]
        tags = max(unnamed, key=lambda n: looks[n].repeats, default=None) or _beside_unnamed(free, looks)
    return {"quote": text, **({"tags": tags} if tags else {})}


def _beside_unnamed(free: Sequence[str], looks: Mapping[str, Look]) -> str | None:
    """The tags of a file without a header, whose names say nothing: a column of a few numbers, or the only other one."""
    if not all(_UNNAMED.fullmatch(name) for name in free):
        return None
    numbered = [name for name in free if looks[name].looks_like_numbered_labels]
    if len(free) == 1 and looks[free[0]].has_short_items and looks[free[0]].marks < 0.5 > looks[free[0]].people:
        return free[0]
    return numbered[0] if len(numbered) == 1 else None


def _with_input(pair: tuple[str, str], names: list[str], rows: Sequence[Row]) -> list[str]:
    """A third column belongs to the two, where any row has text in it: Alpaca's input, what a question is about."""
    asked, answered = pair
    wanted = {"instruction": "input", "question": "context"}.get(folded(asked))
    extra = next((name for name in names if folded(name) == wanted), None)
    if not extra or not any(row.get(extra) for row in rows):
        return list(pair)
    return [asked, extra, answered] if wanted == "input" else [extra, asked, answered]


def _joined(sources: dict[str, str]) -> str:
    """The template over columns that were found, where they are not those of the default one."""
    if len(sources) < 3:
        return " ->: ".join(f"{{{name}}}" for name in sources)
    one, two, three = (f"{{{name}}}" for name in sources)
    if folded(next(iter(sources))) == "context":
        return f"{one}\n\nQuestion: {two}\nAnswer: {three}"
    return f"### Instruction:\n{one}\n\n### Input:\n{two}\n\n### Response:\n{three}"


def _column(rows: Sequence[Row], name: str, sources: dict[str, str], wanted: Wanted, fixed: Template | None) -> Column:
    source = sources[name]
    column = Column(name, source)
    values = [row[source] for row in rows if row.get(source) is not None]
    is_tags = name in fixed.list_columns if fixed else _is_tags(name, source, list(sources), values, wanted)
    if not is_tags:
        texts = [value for value in values if isinstance(value, str) and value.strip()]
        printed = bool(texts) and sum(read_printed(text) is not None for text in texts) >= 0.8 * len(texts)
        return replace(column, printed=printed)
    return replace(column, is_tags=True, separator=wanted.tags_separator or find_separator(_cells(values)))


def _cells(values: Sequence[object]) -> list[str]:
    """What may hold a separator: text, and the only item of a list; lists of several items are parted already."""
    cells = [value if isinstance(value, str) else "" for value in values]
    lists = [items for value in values if isinstance(value, list | tuple) and (items := list(filter(_says, value)))]
    if lists and all(isinstance(item, str) and item.startswith("#") for items in lists for item in items):
        return [item for items in lists for item in items]
    if lists and all(len(items) == 1 for items in lists):
        cells += [str(items[0]) for items in lists]
    return cells


def _says(item: object) -> bool:
    """Whether an item of a list is more than nothing: empty ones go, and must not decide what the others are."""
    return bool(item.strip()) if isinstance(item, str) else not is_nothing(item)


def _is_tags(name: str, source: str, order: list[str], values: Sequence[object], wanted: Wanted) -> bool:
    """Whether a column is a list of tags: called so by the template or the user, or short items in lists that end the
    row, or in text under a name that tags have. Other lists are lines."""
    if name == "tags" or (wanted.tags_column and source == same_name(wanted.tags_column, [source])):
        return True
    if name == "quote":
        return False  # taken for the text, whatever else its name says ("tags*quote")
    called = bool(find_tags([name, source]))
    ends_the_row = len(order) > 1 and name == order[-1]
    if not (called or ends_the_row) or is_author(source):
        return False
    if not look_at(source, [{source: value} for value in values]).has_short_items:
        return False
    if any(isinstance(value, list | tuple) for value in values):
        return True
    texts = [value for value in values if isinstance(value, str) and value.strip()]
    several = sum("," in text for text in texts)
    return called and bool(texts) and (3 * several >= len(texts) or find_separator(texts) != "")


def _sentence(template: Template, columns: Sequence[Column], wanted: Wanted) -> str:
    """What was taken for what, in one line."""
    named = [f"'{one_line(column.source)}'" + _how(column) for column in columns]
    if template.columns == ("quote", "tags"):
        return f"the text is {named[0]}, the tags {named[1]}"
    if len(columns) == 1 and template.text != wanted.template:
        return f"the text is {named[0]}; no column of tags, so the text alone is trained (--tags-column names one)"
    shown = one_line(template.text.replace("\n", "\\n"))
    return f'{", ".join(named)}, trained as "{shown}"'


def _typed_escapes(template: str) -> str:
    """A shell hands on a backslash and an n where a line break was meant."""
    if "\\n" not in template or "\n" in template:
        return ""
    return "; the template contains a literal \\n: for a line break quote it as $'...\\n...'"


def _how(column: Column) -> str:
    if column.separator == BRACKETS or column.printed:
        return " (printed lists)"
    return f" (split at {name_of_separator(column.separator)})" if column.separator else ""


def _advice(names: list[str], rows: Sequence[Row]) -> str:
    """What to type, of columns that can be meant; never the first two blindly."""
    guess = _guess(names, rows, {})
    if guess:
        chosen = [placeholder_for(name) for name in guess.values()]
        return "Type --template " + '"' + " ->: ".join(f"{{{name}}}" for name in chosen) + '"'
    if not names:
        return 'Write rows such as {"quote": "Be kind.", "tags": ["life"]}'
    return "Say which column is which: --text-column NAME --tags-column NAME"
