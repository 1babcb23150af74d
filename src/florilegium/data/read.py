"""Rows in: DATA to a list of Quotes that are known to be sound, before anything else of the run begins.

    open_source -> the first thousand rows of a file -> which columns they are -> all rows, one by one -> Quotes

Every row is looked at before training begins: a text that is missing in row 1,731 must not come up an hour into it. The
first bad row ends the reading with its file, its line and what to do about it; with `skip_bad_rows` bad ones are
collected in `skipped` in place of that, and with None up to one in twenty: a few are a slip, more are another file than
was meant. Rows that the data hold back already (a `test` split, `--held-out-file`) stand behind the
others, from `held_out_from` on.

A row is good when its main column has text, the other columns have what can be made text or tags, and
`template.render` can promise to read it back. Exact duplicates (the same after normalisation, in every column of the
template) are dropped and counted."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from florilegium.config import TrainConfig
from florilegium.data.cleaning import clean_quote
from florilegium.data.column_choice import Choice, Wanted
from florilegium.data.columns import choose_columns
from florilegium.data.lines import MAX_ROW_BYTES, OVER_LIMIT
from florilegium.data.mojibake import mend
from florilegium.data.quote import SKIP, Quote
from florilegium.data.raw_rows import Note, Problem, Raw, causes, first_rows, too_many
from florilegium.data.row_shapes import Shaped, shape_of
from florilegium.data.rows import Rows, digest_of, key_of
from florilegium.data.sources import Part, Source, open_source
from florilegium.data.template import DEFAULT_TEMPLATE, Template
from florilegium.errors import DataError, counted

LONGEST_AUTHOR = 1000
SKIPPED_SHARE, SURE_AFTER = 0.05, 1000  # bad rows that are skipped unasked; how many rows are read before more end it
MOST_KNOWN = 100_000
Progress = Callable[[str, int], None]


def read_rows(
    data: str | Path,
    template_text: str = DEFAULT_TEMPLATE,
    *,
    skip_bad_rows: bool | None = False,
    fix_encoding: bool = False,
    split: str | None = None,
    held_out_file: str | Path | None = None,
    text_column: str | None = None,
    tags_column: str | None = None,
    tags_separator: str | None = None,
    direction: str = "quote",
    progress: Progress | None = None,
) -> Rows:
    """Read and check all rows of DATA: `sample`, a file, a folder of files, or a Hub id.

    `direction` is that in which the rows are trained (`Template.in_direction`): they must be readable in it. With
    `fix_encoding`, text whose encoding is broken is mended before anything else looks at it. `progress` is told
    now and then how many rows are read.

    Raises: DataError for DATA that cannot be read, for the first bad row (with `skip_bad_rows`: when no good one is
    left); UsageError for a template that is none."""
    wanted = Wanted(template_text, text_column, tags_column, tags_separator)
    template = Template.from_text(template_text)
    source = open_source(data, split)
    if held_out_file is not None:
        if split is None and source.held_out:
            source = Source(source.parts, said=f"{source.said}, in place of which {held_out_file} is held out")
        source = Source(source.parts, open_source(held_out_file).parts, source.said)
    reading = _Reading(wanted, template, skip_bad_rows, fix_encoding, progress, direction)
    reading.say(source.said)
    with _without_collector():
        for part in source.parts:
            reading.read(part)
        reading.begin_held_out(bool(source.held_out))
        for part in source.held_out:
            reading.read(part)
        return reading.finish(str(data))


@contextmanager
def _without_collector() -> Iterator[None]:
    """Rows are dicts and lists by the million and hold no cycles: the collector would walk over all of them, again and
    again, to find nothing."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def read_rows_of(config: TrainConfig, data: str | None = None, progress: Progress | None = None) -> Rows:
    """`read_rows` as the settings of a run say it; `data` is where its rows lie now, if they have moved."""
    return read_rows(
        data or config.data,
        config.template,
        skip_bad_rows=config.skip_bad_rows,
        fix_encoding=config.fix_encoding,
        split=config.split,
        held_out_file=config.held_out_file,
        text_column=config.text_column,
        tags_column=config.tags_column,
        tags_separator=config.tags_separator,
        direction=config.direction,
        progress=progress,
    )


@dataclass
class _Reading:
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

    def say(self, text: str) -> None:
        if text:
            self.notes[text] = None

    def read(self, part: Part) -> None:
        """The rows of one file. Its first thousand decide what its columns are; then it is read from its beginning."""
        shaped, choice = self._look(part)
        for found in part.rows(choice.sources if choice else None):
            if isinstance(found, Note):
                self.say(found.text)
                continue
            self.num_read += 1
            if self.progress and not self.num_read % 10_000:
                self.progress("rows read", self.num_read)
            row = shaped.shape(found) if isinstance(found, Raw) else found
            problem = row if isinstance(row, Problem) else self.take(row, choice)
            if problem:
                self.refuse(problem)

    def _look(self, part: Part) -> tuple[Shaped, Choice | None]:
        """What the first rows are; no choice where none of them can be read. Those that are bad are told by `read`."""
        example = "{" + ", ".join(f'"{name}": ...' for name in self.template.columns) + "}"
        first = list(first_rows(part.rows(None)))
        shaped = shape_of([raw.row for raw in first], example)
        rows = [shaped.shape(raw) for raw in first]
        objects = [row.row for row in rows if isinstance(row, Raw) and isinstance(row.row, dict)]
        if not objects:
            return shaped, None
        self.say(shaped.said)
        # Later files are held to the template that the first one gave.
        choice = choose_columns(objects, self.wanted, first[0].place, self.template if self.is_chosen else None)
        is_other = self.is_chosen and choice.said not in self.notes
        self.say(f"{part.name}: {choice.said}" if is_other else choice.said)
        self.template, self.is_chosen = choice.template, True
        self.trained = choice.template.in_direction(self.direction)
        return shaped, choice

    def take(self, raw: Raw, choice: Choice | None) -> Problem | None:
        """Keep the row's quote, count it as a duplicate, or say what is wrong with it."""
        row, template = raw.row, self.trained
        if choice is None or template is None or not isinstance(row, dict):
            return Problem(
                raw.place, "the row is of another kind than those before it", f"Write all rows alike, {SKIP}"
            )
        try:
            quote = template.normalise(choice.pick(row))
            mended = quote
            if self.fix_encoding and (clean := clean_quote(quote)) is not quote:
                mended = template.normalise(clean)
            text = template.render_sound(mended)
        except DataError as error:
            return Problem(raw.place, choice.in_the_files_words(error.cause), error.fix)
        if len(text) * 4 > MAX_ROW_BYTES and len(text.encode()) > MAX_ROW_BYTES:
            return Problem(raw.place, OVER_LIMIT, f"Shorten it, {SKIP}")
        if self._keep(mended, text, raw.place, row, choice):
            self.repaired += mended != quote
            self.parted += choice.has_comma_in_item(row)
        return None

    def refuse(self, problem: Problem) -> None:
        if self.skip_bad_rows is False:
            raise problem.error()
        self.skipped.append(problem)
        if self.skip_bad_rows is None and len(self.skipped) > SKIPPED_SHARE * max(self.num_read, SURE_AFTER):
            raise too_many(self.skipped, self.num_read)

    def begin_held_out(self, are_there: bool) -> None:
        """From here on rows are held out. One that is trained too counts as no duplicate: the split takes it out."""
        if are_there:
            self.held_out_from = len(self.quotes)
            self.seen = set()

    def _keep(self, quote: Quote, text: str, place: str, row: dict[str, object], choice: Choice) -> bool:
        """Whether the quote is new; a second one that is equal is counted and left out."""
        key = key_of(text)
        if key in self.seen:
            self.duplicates += 1
            return False
        self.seen.add(key)
        for name in self.template.list_columns:
            tags = quote[name]
            if isinstance(tags, list) and len(self.known) < MOST_KNOWN:  # a tag that comes again is one string
                quote[name] = list(map(self.known.setdefault, tags, tags))
        self.quotes.append(quote)
        self.places.append(place)
        if row.keys() - self.columns.keys():
            self.columns.update(dict.fromkeys(row))
        # Data stays as it is: secrets are taken out of what is printed, where it is printed.
        author = row.get(choice.author) if choice.author else None
        name = " ".join(author[:LONGEST_AUTHOR].split()) if isinstance(author, str) else ""
        self.authors.append(mend(name) if self.fix_encoding else name)
        return True

    def finish(self, source: str) -> Rows:
        template = self.trained or self.template
        if self.skip_bad_rows is None and len(self.skipped) > SKIPPED_SHARE * self.num_read:
            raise too_many(self.skipped, self.num_read)
        bare = sum(not any(quote[name] for name in self.template.list_columns) for quote in self.quotes)
        if bare and self.template.list_columns:
            self.say(f"{bare:,} of {len(self.quotes):,} rows have no tags")
        if self.parted:
            self.say(
                f"{counted(self.parted, 'row')} with a comma in a tag: it becomes two tags, since commas part them"
            )
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
