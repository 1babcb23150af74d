"""The template: a Quote to the text that is trained, to the prompt that is continued, and from the text back to a
Quote.

    render({"quote": "Be kind.", "tags": ["life", "love"]})   ->  "Be kind. ->: life, love"
    prompt({"quote": "Be kind."})                             ->  "Be kind. ->:"
    parse("Be kind. ->: life, love")                          ->  {"quote": "Be kind.", "tags": ["life", "love"]}

Training and generation hold the same object, so they cannot drift apart. Two promises, and a test for each:

- `parse(render(quote)) == quote`. `render` makes sure of it by parsing what it is about to hand out. A value that holds a
  separator, or whose end makes one together with the literal behind it, is refused there and never mis-read later.
- A prompt has no white space at its end. `"Be kind. ->: "` would end in a token of its own where the training text goes on with
  `" life"`; without it the prompt's token ids are a prefix of the ids that were trained.

With `--direction` a row is also, or only, trained the other way, so that a quote can be asked for by its tags:

    tags_first.render({"quote": "Be kind.", "tags": ["life", "love"]})   ->  "life, love :<- Be kind."

One object holds both ways, and `parse` tells them apart by the sign that stands first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from florilegium.data.quote import SKIP, Quote, Value, clean_list, clean_text, join_items, split_items
from florilegium.data.template_parser import Separator, split_template
from florilegium.errors import DataError, UsageError

__all__ = ["DEFAULT_TEMPLATE", "Quote", "Template", "Value"]

DEFAULT_TEMPLATE = "{quote} ->: {tags}"
TAGS_FIRST = ":<-"


@dataclass(frozen=True)
class Template:
    """Columns in their order, and the literal text round them. Make one with `Template.from_text`; `tags_first` is the
    other way in which the same rows are trained, or None."""

    text: str
    columns: tuple[str, ...]
    list_columns: tuple[str, ...]
    tags_first: Template | None = None
    is_chat: bool = False  # a prompt is a whole question, and the last column its answer

    @classmethod
    def from_text(cls, text: str = DEFAULT_TEMPLATE, list_columns: Iterable[str] = ("tags",)) -> Template:
        """Read a template such as `"{quote} ->: {tags}"`; white space at its ends is dropped.

        `list_columns` names the columns that hold lists; names that the template does not use are ignored. Raises:
        UsageError for anything in braces but the name of a column, for no column or one twice, and for two columns with
        nothing but white space between them."""
        columns, _ = split_template(text.strip())
        return cls(text.strip(), columns, tuple(name for name in columns if name in set(list_columns)))

    def in_direction(self, direction: str) -> Template:
        """This template for rows that are trained quote first, tags first, or both ways. One that begins with its tags
        is tags first already. Raises UsageError where the tags cannot be put first."""
        if direction == "quote" or (direction == "tags" and self.begins_with_tags):
            return self
        is_pair = len(self.columns) == 2 and self.columns[1:] == self.list_columns
        if not is_pair or self._literals[0] or self._literals[2] or TAGS_FIRST in self.text:
            raise UsageError(
                f"--direction {direction} needs rows of a text and a list of tags with a separator between them, and "
                f"the template is {self.text!r}",
                'Use --template "{quote} ->: {tags}", or leave --direction out',
            )
        quote, tags = self.columns
        other = Template.from_text(f"{{{tags}}} {TAGS_FIRST} {{{quote}}}", self.list_columns)
        return other if direction == "tags" else replace(self, tags_first=other)

    @property
    def begins_with_tags(self) -> bool:
        """Whether a prompt of tags asks for a quote."""
        return len(self.columns) > 1 and self.columns[0] in self.list_columns

    @property
    def asked_by_tags(self) -> Template | None:
        """The way in which a prompt of tags asks for a quote; None where no row was trained so."""
        return self.tags_first or (self if self.begins_with_tags else None)

    @property
    def direction(self) -> str:
        return "both" if self.tags_first else "tags" if self.begins_with_tags else "quote"

    @cached_property
    def main_column(self) -> str:
        """The column that must not be empty: the first one of text, or simply the first where all are lists."""
        return next((name for name in self.columns if name not in self.list_columns), self.columns[0])

    @property
    def opening(self) -> str:
        """What stands before the first column."""
        return self._literals[0]

    @cached_property
    def separators(self) -> tuple[Separator, ...]:
        """What stands between the columns, one fewer than there are columns."""
        return tuple(Separator(literal) for literal in self._literals[1:-1])

    @cached_property
    def _literals(self) -> tuple[str, ...]:
        return split_template(self.text)[1]

    @cached_property
    def _frame(self) -> str:
        """The literals with a place for each column's text, for `%`."""
        return "%s".join(literal.replace("%", "%%") for literal in self._literals)

    @cached_property
    def _signs(self) -> tuple[str, ...]:
        """The separators where all are signs and nothing stands before or behind them; none for other templates."""
        is_plain = not self._literals[0] and not self._literals[-1] and all(s.is_sign for s in self.separators)
        return tuple(separator.core for separator in self.separators) if is_plain else ()

    def normalise(self, row: Mapping[str, object]) -> Quote:
        """The template's columns of `row`, cleaned; other columns are left out. `normalise(normalise(row)) ==
        normalise(row)`.

        Raises: DataError (naming the column, not the place) for a column that is missing, that holds anything but text,
        or a list of text in a list column, and for an empty main column."""
        quote = {name: self._clean(name, row) for name in self.columns}
        if not quote[self.main_column]:
            raise DataError(f"column {self.main_column!r} is empty", f"Write text there, {SKIP}")
        return quote

    def render(self, quote: Mapping[str, object]) -> str:
        """The text that is trained, without white space at its end: an empty tag list gives `"Be kind. ->:"`.

        Raises: DataError when the quote is not sound (see `normalise`), or would not parse back to itself.
        """
        return self.render_sound(self.normalise(quote))

    def render_sound(self, sound: Quote) -> str:
        """`render` for what `normalise` gave already: a million rows are cleaned once and not twice."""
        text = (self._frame % tuple([join_items(sound[name]) for name in self.columns])).rstrip()
        if not self.tags_first and self._finds_its_signs(text):
            return text
        if self.tags_first and TAGS_FIRST in text:
            raise DataError(f"the row holds {TAGS_FIRST!r}, the separator of tags first", f"Change it, {SKIP}")
        parsed = self.parse(text)
        if parsed == sound and self.tags_first:
            parsed = self.parse(self.tags_first.render_sound(sound))
        if parsed != sound:
            raise self._not_reversible(sound, parsed or {})
        return text

    def _finds_its_signs(self, text: str) -> bool:
        """Whether `parse` must cut a rendered text where it was put together: every separator is a sign, and stands in
        it once. So it is for nearly every row, at a tenth of what parsing costs."""
        return bool(self._signs) and all(text.find(sign) == text.rfind(sign) for sign in self._signs)

    def pieces(self, quote: Mapping[str, Value]) -> list[tuple[str, str]]:
        """What `render` joins: (column, its text), and ("", literal) for what the template itself says."""
        found = [("", self._literals[0])]
        for name, literal in zip(self.columns, self._literals[1:], strict=True):
            found += [(name, join_items(quote[name])), ("", literal)]
        return found

    def prompt(self, given: Mapping[str, object] | None = None, *, open: bool = False) -> str:
        """The text up to the first column that is not given, for the model to go on from; no white space at its end.

        `open=True` leaves the last given column unfinished: `prompt({"quote": "Be"}, open=True)` is `"Be"`, not `"Be
        ->:"`. Raises: UsageError for a column that the template lacks, or that stands behind one that is not given;
        DataError for a value that is not sound or that ends early because it holds a separator."""
        given = given or {}
        known = self._given_columns(given)
        if not open and known == self.columns:
            return self.render(given)
        try:
            clean = {name: self._clean(name, given) for name in known}
        except DataError as error:  # a prompt is no row that could be dropped
            raise DataError(error.cause, error.fix.removesuffix(f", {SKIP}")) from None
        if not open and clean.get(self.main_column, True) in ("", []):
            raise DataError(
                f"column {self.main_column!r} of the prompt is empty", "Give it some text, or prompt with nothing"
            )
        text = self._join(clean, known, closed=not open)
        # An open prompt may bring its own separator ("Be kind. ->:" typed by hand); a closed one would then hold two.
        if not open:
            parsed = self._quote_of(self._cut(text, self.separators[: len(known)]) or [])
            if any(parsed.get(name) != clean[name] for name in known):
                raise self._not_reversible(clean, parsed)
        return text

    def parse(self, text: str) -> Quote | None:
        """The Quote that a text holds; None where a separator is missing or the main column is empty."""
        if self.tags_first and self._is_tags_first(text):
            found = self.tags_first.parse(text)
            return found and {name: found[name] for name in self.columns}
        text, first, last = text.strip(), self._literals[0].rstrip(), self._literals[-1].strip()
        end = len(text) - len(last)
        if end < len(first) or not (text.startswith(first) and text.endswith(last)):
            return None
        texts = self._cut(text[:end].rstrip(), self.separators)
        quote = self._quote_of(texts or [])
        return quote if quote.get(self.main_column) else None

    def _is_tags_first(self, text: str) -> bool:
        assert self.tags_first is not None
        there, here = (way.separators[0].find(text.strip(), 0) for way in (self.tags_first, self))
        return there is not None and (here is None or there < here)

    def _cut(self, text: str, separators: Iterable[Separator]) -> list[str] | None:
        """What stands before, between and after the separators, each at its first place; None where one is missing."""
        texts, start = [], len(self._literals[0].rstrip())
        for separator in separators:
            found = separator.find(text, start)
            if found is None:
                return None
            texts.append(text[start : found[0]])
            start = found[1]
        return [*texts, text[start:]]

    def _quote_of(self, texts: list[str]) -> Quote:
        pairs = zip(self.columns, texts, strict=False)
        return {name: split_items(text) if name in self.list_columns else text.strip() for name, text in pairs}

    def _clean(self, name: str, row: Mapping[str, object]) -> Value:
        if name not in row:
            write = f'Write "{name}": [] for none' if name in self.list_columns else f"Give it a {name!r}"
            raise DataError(f"no column {name!r} in this row", f"{write}, {SKIP}")
        return clean_list(name, row[name]) if name in self.list_columns else clean_text(name, row[name])

    def _join(self, quote: Quote, columns: tuple[str, ...], *, closed: bool = True) -> str:
        """The literals and values up to the last of `columns`, and, closed, the literal behind it."""
        literals = self._literals
        pieces = [literals[i] + join_items(quote[name]) for i, name in enumerate(columns)]
        return "".join([*pieces, literals[len(columns)] if closed or not columns else ""]).rstrip()

    def _given_columns(self, given: Mapping[str, object]) -> tuple[str, ...]:
        known = self.columns[: next((i for i, name in enumerate(self.columns) if name not in given), len(self.columns))]
        for name in given:
            if name not in self.columns:
                raise UsageError(f"the template has no column {name!r}", f"It has: {', '.join(self.columns)}")
            if name not in known:
                missing = self.columns[len(known)]
                raise UsageError(
                    f"cannot prompt with {name!r} alone: it stands behind {missing!r}", f"Give {missing!r} too"
                )
        return known

    def _not_reversible(self, quote: Quote, parsed: Mapping[str, Value]) -> DataError:
        """The error for the first column that came back changed, and the separator behind it that cut it short."""
        name = next((name for name in quote if parsed.get(name) != quote[name]), self.columns[-1])
        index = self.columns.index(name)
        if index == len(self.separators):
            return DataError(
                f"column {name!r} would not be read back as it is from the template {self.text!r}", f"Change it, {SKIP}"
            )
        core = self.separators[index].core
        holds = "contains" if core in join_items(quote[name]) else "runs into"
        return DataError(
            f"column {name!r} {holds} the separator {core!r}", f"Change the text or the separator (--template), {SKIP}"
        )
