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

from pathlib import Path

from florilegium.config import TrainConfig
from florilegium.data.collector import without_collector
from florilegium.data.column_choice import Wanted
from florilegium.data.reading import Progress, Reading
from florilegium.data.rows import Rows
from florilegium.data.sources import Source, open_source
from florilegium.data.template import DEFAULT_TEMPLATE, Template


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
    join_tag_columns: bool = True,
    direction: str = "quote",
    progress: Progress | None = None,
) -> Rows:
    """Read and check all rows of DATA: `sample`, a file, a folder of files, or a Hub id.

    `direction` is that in which the rows are trained (`Template.in_direction`): they must be readable in it. With
    `fix_encoding`, text whose encoding is broken is mended before anything else looks at it. `progress` is told
    now and then how many rows are read.

    Raises: DataError for DATA that cannot be read, for the first bad row (with `skip_bad_rows`: when no good one is
    left); UsageError for a template that is none."""
    wanted = Wanted(template_text, text_column, tags_column, tags_separator, join_tag_columns)
    template = Template.from_text(template_text)
    source = open_source(data, split)
    if held_out_file is not None:
        if split is None and source.held_out:
            source = Source(source.parts, said=f"{source.said}, in place of which {held_out_file} is held out")
        source = Source(source.parts, open_source(held_out_file).parts, source.said)
    reading = Reading(wanted, template, skip_bad_rows, fix_encoding, progress, direction)
    reading.say(source.said)
    with without_collector():
        for part in source.parts:
            reading.read(part)
        reading.begin_held_out(bool(source.held_out))
        for part in source.held_out:
            reading.read(part)
        return reading.finish(str(data))


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
        join_tag_columns=config.join_tag_columns,
        direction=config.direction,
        progress=progress,
    )
