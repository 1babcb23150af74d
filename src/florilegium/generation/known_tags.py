"""Tags from a list that is known: those of the training rows, so that nothing is named that the data does not name.

Be kind. ->: kindness, lief       as the model writes freely
Be kind. ->: kindness, life       the most likely known tags, each once"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from florilegium.config import make_config, read_run_config, settings_of_run
from florilegium.data import read_rows_of
from florilegium.errors import DataError, FlorilegiumError, UsageError
from florilegium.generation.generate import Generated
from florilegium.generation.tag_scores import known_tags_of, tag_scorer
from florilegium.generation.tuned import Tuned
from florilegium.storage.run_directory import RunDirectory, adapter_folder


def tags_of_rows(run: Path, most: int) -> list[str]:
    """The tags of a run's rows, the most frequent first; none where the rows are gone."""
    try:
        return read_tags_of_rows(run, most)
    except FlorilegiumError:
        return []


def read_tags_of_rows(run: Path, most: int) -> list[str]:
    """The same. Raises UsageError for an adapter without its run, DataError where the rows are gone."""
    directory = RunDirectory(adapter_folder(run).parent)
    try:
        changed = directory.config.stat().st_mtime_ns
    except OSError:
        raise UsageError(
            f"--known-tags needs the rows that {run} was trained on, and only a run's folder names them",
            "Name the run with --run, or leave --known-tags out",
        ) from None
    return _read(directory, changed, most)


def with_known_tags(tuned: Tuned, rows: Sequence[Generated], tags: Sequence[str]) -> list[Generated]:
    """What was written, its tags chosen anew among `tags`; a text without a quote stays as it is. Raises UsageError
    for a template that does not end in a list of tags."""
    template, column = tuned.template, tuned.template.columns[-1]
    check_ends_in_tags(tuned)
    found = []
    with tag_scorer(tuned.loaded) as scorer:
        for row in rows:
            if row.quote is None:
                found.append(row)
                continue
            try:
                known = known_tags_of(scorer, tuned.loaded, template, row.quote, tags).written
                quote = {**row.quote, column: known}
                found.append(replace(row, text=template.render(quote), quote=quote, finished=True))
            except DataError:  # it wrote a separator of its own
                found.append(row)
    return found


def check_ends_in_tags(tuned: Tuned) -> None:
    template = tuned.template
    if len(template.columns) < 2 or template.columns[-1] not in template.list_columns:
        raise UsageError(
            "--known-tags needs a model whose template ends in a list of tags",
            'Train with --template "{quote} ->: {tags}", or leave --known-tags out',
        )


@lru_cache(8)
def _read(run: RunDirectory, changed: int, most: int) -> list[str]:
    rows = read_rows_of(make_config(settings_of_run(read_run_config(run.config))))
    column = rows.template.columns[-1]
    counts = Counter(str(tag) for quote in rows.quotes for tag in quote[column])
    return [tag for tag, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most]]
