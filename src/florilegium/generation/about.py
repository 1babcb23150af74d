"""A quote about something: `florilegium generate --about love,hope`.

The model learned to write a quote and then its tags. To get a quote with given tags, quotes are drawn and those kept
that the model itself gives the tags. Which words it knows as tags, and how often, the training rows decided: for a tag
that it never writes nothing is found, and that is said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from florilegium.config import SamplingSettings
from florilegium.errors import UsageError
from florilegium.generation.generate import Generated

if TYPE_CHECKING:
    from florilegium.generation.tuned import Tuned

DRAWN_AT_ONCE, MOST_DRAWN = 32, 256


@dataclass(frozen=True)
class AboutResult:
    """Quotes with the tags that were asked for, how many were drawn to find them, and the tags that the drawn ones had
    most often."""

    rows: list[Generated]
    drawn: int
    frequent_tags: tuple[str, ...]


def quotes_about(tuned: Tuned, tags: Sequence[str], n: int, settings: SamplingSettings) -> AboutResult:
    """At most `n` quotes whose own tags hold all of `tags`, in the order in which they were drawn. A quote twice counts
    once. The same seed finds the same quotes."""
    wanted = {_key(tag) for tag in tags if tag.strip()}
    column = tuned.template.columns[-1]
    if column not in tuned.template.list_columns or len(tuned.template.columns) < 2:
        raise UsageError(
            "--about needs a model whose template ends in a list of tags", 'Train with --template "{quote} ->: {tags}"'
        )
    if not wanted:
        raise UsageError("--about names no tag", "Type: florilegium generate --about love,hope")
    if n < 1:
        raise UsageError(f"-n is {n}", "It takes 1 or more")
    if settings.temperature == 0:
        raise UsageError("--about draws quotes, and at temperature 0 there is one", "Leave --temperature out")
    found: dict[str, Generated] = {}
    seen: dict[str, int] = {}
    drawn = 0
    while drawn < MOST_DRAWN and len(found) < n:
        for row in tuned.complete([tuned.prompt_text("")] * DRAWN_AT_ONCE, settings, first_row=drawn):
            drawn += 1
            own = [str(tag) for tag in (row.quote or {}).get(column, [])]
            for tag in own:
                seen[tag] = seen.get(tag, 0) + 1
            if wanted <= {_key(tag) for tag in own} and row.novel is not False:
                found.setdefault(row.text, row)
    frequent = sorted(seen, key=lambda tag: (-seen[tag], tag))[:8]
    return AboutResult(list(found.values())[:n], drawn, tuple(frequent))


def _key(tag: str) -> str:
    """Tags are the same whatever their case, with blanks or hyphens."""
    return " ".join(tag.casefold().replace("-", " ").replace("_", " ").split())
