"""The rows of DATA one by one, from `open_source`'s parts to `Rows`: the state of a reading under way.

part.rows -> Raw or Problem -> shaped (an object) -> picked (the template's columns) -> a Quote, or a bad row"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from florilegium.data.cleaning import clean_quote, without_nuls
from florilegium.data.column_choice import Choice, Wanted
from florilegium.data.columns import choose_columns
from florilegium.data.lines import MAX_ROW_BYTES, OVER_LIMIT
from florilegium.data.mojibake import mend
from florilegium.data.quote import SKIP, Quote
from florilegium.data.raw_rows import Note, Problem, Raw, causes, first_rows, too_many
from florilegium.data.row_shapes import Shaped, shape_of
from florilegium.data.rows import Rows, digest_of, key_of
from florilegium.data.sources import Part
from florilegium.data.split_column import held_side, no_training_rows, side_of
from florilegium.data.split_files import TRAIN
from florilegium.data.template import Template
from florilegium.errors import DataError, counted

LONGEST_AUTHOR = 1000
SKIPPED_SHARE, SURE_AFTER = 0.05, 1000  # bad rows that are skipped unasked; how many rows are read before more end it
MOST_KNOWN = 100_000
Progress = Callable[[str, int], None]


class _Waiting(NamedTuple):
    """A sound row of a split, until all splits are known."""

    quote: Quote
    text: str
    place: str
    author: str
    is_repaired: bool
    is_parted: bool


@dataclass
class Reading:
    """What `read_rows` knows so far."""

    wanted: Wanted
    template: Template
    skip_bad_rows: bool | None
    fix_encoding: bool = False
    progress: Progress | None = None
    direction: str = "quote"
    trained: Template | None = None  # the template, in the direction
    is_chosen: bool = False
    quotes: list[Quote] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    columns: dict[str, None] = field(default_factory=dict)  # a dict as an ordered set
    skipped: list[Problem] = field(default_factory=list)
    seen: set[bytes] = field(default_factory=set)
    known: dict[str, str] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)
    duplicates: int = 0
    num_read: int = 0
    authors: list[str] = field(default_factory=list)
    repaired: int = 0
    parted: int = 0
    held_out_from: int | None = None
    waiting: dict[str, list[_Waiting]] = field(default_factory=dict)  # rows of splits that are not for training
    split: str = ""  # the column that says so

    def say(self, text: str) -> None:
        if text:
            self.notes[text] = None

    def read(self, part: Part) -> None:
        """The rows of one file. Its first thousand decide what its columns are; then it is read from its beginning."""
        shaped, choice = self._look(part)
        for found in part.rows(choice.sources if choice and not shaped.said else None):
            if isinstance(found, Note):
                self.say(found.text)
                continue
            row = shaped.shape(found) if isinstance(found, Raw) else found
            if row is None:
                continue
            self.num_read += 1
            if self.progress and not self.num_read % 10_000:
                self.progress("rows read", self.num_read)
            problem = row if isinstance(row, Problem) else self.take(row, choice)
            if problem:
                self.refuse(problem)

    def _look(self, part: Part) -> tuple[Shaped, Choice | None]:
        """What the first rows are; no choice where none of them can be read. Those that are bad are told by `read`."""
        example = "{" + ", ".join(f'"{name}": ...' for name in self.template.columns) + "}"
        first = list(first_rows(part.rows(None)))
        shaped = shape_of([raw.row for raw in first], example, self.wanted)
        rows = [shaped.shape(raw) for raw in first]
        objects = [row.row for row in rows if isinstance(row, Raw) and isinstance(row.row, dict)]
        if not objects:
            return shaped, None
        self.say(shaped.said)
        # Later files are held to the template that the first one gave.
        fixed = self.template if self.is_chosen else None
        try:
            choice = choose_columns(objects, self.wanted, first[0].place, fixed)
        except DataError as error:
            raise self._first_bad_row(part) or error from None
        is_other = self.is_chosen and choice.said not in self.notes
        self.say(f"{part.name}: {choice.said}" if is_other else choice.said)
        self.template, self.is_chosen = choice.template, True
        self.trained = choice.template.in_direction(self.direction)
        return shaped, choice

    def _first_bad_row(self, part: Part) -> DataError | None:
        """What stands before the first row that can be read, where no bad row is to be passed over."""
        first = next(found for found in part.rows(None) if not isinstance(found, Note))
        return first.error() if isinstance(first, Problem) and self.skip_bad_rows is False else None

    def take(self, raw: Raw, choice: Choice | None) -> Problem | None:
        """Keep the row's quote, count it as a duplicate, or say what is wrong with it."""
        row, template = raw.row, self.trained
        if choice is None or template is None or not isinstance(row, dict):
            return Problem(
                raw.place, "the row is of another kind than those before it", f"Write all rows alike, {SKIP}"
            )
        try:
            picked = choice.pick(row)
            quote = template.normalise(without_nuls(picked) if self.fix_encoding else picked)
            mended = quote
            if self.fix_encoding and (clean := clean_quote(quote)) is not quote:
                mended = template.normalise(clean)
            text = template.render_sound(mended)
        except DataError as error:
            return Problem(raw.place, choice.in_the_files_words(error.cause), error.fix)
        if len(text) * 4 > MAX_ROW_BYTES and len(text.encode()) > MAX_ROW_BYTES:
            return Problem(raw.place, OVER_LIMIT, f"Shorten it, {SKIP}")
        if not row.keys() <= self.columns.keys():
            self.columns.update(dict.fromkeys(row))
        is_repaired = mended is not quote and mended != quote
        author, is_parted = self._author(row, choice), choice.has_comma_in_item(row)
        side = TRAIN if choice.split is None or self.held_out_from is not None else side_of(row.get(choice.split))
        if side == TRAIN:
            self._keep(mended, text, raw.place, author, is_repaired, is_parted)
        else:
            self.split = str(choice.split)
            waiting = _Waiting(mended, text, raw.place, author, is_repaired, is_parted)
            self.waiting.setdefault(side, []).append(waiting)
        return None

    def _author(self, row: Mapping[str, object], choice: Choice) -> str:
        # Data stays as it is: secrets are taken out of what is printed, where it is printed.
        author = row.get(choice.author) if choice.author else None
        name = " ".join(author[:LONGEST_AUTHOR].split()) if isinstance(author, str) else ""
        return mend(name) if self.fix_encoding else name

    def refuse(self, problem: Problem) -> None:
        if self.skip_bad_rows is False:
            raise problem.error()
        self.skipped.append(problem)
        if self.skip_bad_rows is None and len(self.skipped) > SKIPPED_SHARE * max(self.num_read, SURE_AFTER):
            raise too_many(self.skipped, self.num_read)

    def begin_held_out(self, are_there: bool) -> None:
        """From here on rows are held out. One that is trained too counts as no duplicate: the split takes it out."""
        held = self._settle(are_there)
        if are_there or held:
            self.held_out_from = len(self.quotes)
            self.seen = set()
        for kept in held:
            self._keep(*kept)

    def _settle(self, are_there: bool) -> list[_Waiting]:
        """Of the rows that a column puts apart, those to hold out; with `are_there` other rows are held out already."""
        if not self.waiting:
            return []
        if not self.quotes and len(self.waiting) == 1:  # all of one split: that is what was meant
            for kept in self.waiting.popitem()[1]:
                self._keep(*kept)
            return []
        if not self.quotes:
            place = next(iter(self.waiting.values()))[0].place
            raise no_training_rows(f"{place}: column {self.split!r}", list(self.waiting))
        name = None if are_there else held_side(self.waiting)
        held = self.waiting.pop(name) if name else []
        left = ", ".join(f"{counted(len(rows), 'row')} of '{side}'" for side, rows in self.waiting.items())
        self.num_read -= sum(map(len, self.waiting.values()))
        parts = [f"held out: '{name}'" if name else "", f"not used: {left}" if left else ""]
        self.say(f"column '{self.split}': " + "; ".join(["training rows from 'train'", *filter(None, parts)]))
        return held

    def _keep(self, quote: Quote, text: str, place: str, author: str, is_repaired: bool, is_parted: bool) -> None:
        """A second quote that is equal is counted and left out."""
        key = key_of(text)
        if key in self.seen:
            self.duplicates += 1
            return
        self.seen.add(key)
        for name in self.template.list_columns:
            tags = quote[name]
            if isinstance(tags, list) and len(self.known) < MOST_KNOWN:  # a tag that comes again is one string
                quote[name] = list(map(self.known.setdefault, tags, tags))
        self.quotes.append(quote)
        self.places.append(place)
        self.authors.append(author)
        self.repaired += is_repaired
        self.parted += is_parted

    def finish(self, source: str) -> Rows:
        template = self.trained or self.template
        if self.skip_bad_rows is None and len(self.skipped) > SKIPPED_SHARE * self.num_read:
            raise too_many(self.skipped, self.num_read)
        bare = sum(not any(quote[name] for name in self.template.list_columns) for quote in self.quotes)
        if bare and self.template.list_columns:
            self.say(f"{bare:,} of {len(self.quotes):,} rows have no tags")
        if self.parted:
            parted = counted(self.parted, "row")
            self.say(f"{parted} with a comma in a tag: it becomes two tags, since tags are separated by commas")
        if not self.quotes:
            first = self.skipped[0]
            raise DataError(f"{source}: none of its {self.num_read:,} rows is good{causes(self.skipped)}", first.fix)
        return Rows(
            quotes=self.quotes,
            places=self.places,
            template=template,
            source=source,
            digest=digest_of(self.quotes, template),
            columns=tuple(self.columns),
            duplicates=self.duplicates,
            skipped=self.skipped,
            num_read=self.num_read,
            authors=self.authors,
            repaired=self.repaired,
            notes=tuple(self.notes),
            held_out_from=self.held_out_from,
        )
