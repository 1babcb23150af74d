"""A quote about something: `florilegium generate --about love,hope`.

A model that was trained tags first (`train --direction both`) is asked: `love, hope :<-` is the beginning of a text, and
it writes the quote. One that learned to write a quote and then its tags cannot be: quotes are drawn from it, and those
kept that it gives the tags itself. Which words it knows as tags, and how often, the training rows decided: for a tag
that it never writes nothing is found, and that is said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from florilegium.config import SamplingSettings
from florilegium.data import Template
from florilegium.errors import UsageError
from florilegium.generation.generate import Generated

DRAWN_AT_ONCE, MOST_DRAWN, ROUNDS = 32, 256, 10


@dataclass(frozen=True)
class AboutResult:
    """Quotes with the tags that were asked for, how many were drawn to find them, and the tags that the drawn ones had
    most often. `asked` says that the tags were the prompt, and no quotes were chosen by theirs."""

    rows: list[Generated]
    drawn: int
    frequent_tags: tuple[str, ...]
    asked: bool = False


class Writer(Protocol):
    """What is asked of the tuned model (`tuned.py`): texts for prompts, the same for the same seed and `first_row`."""

    @property
    def template(self) -> Template: ...

    def prompt_text(self, prompt: str) -> str: ...

    def complete(
        self, prompts: Sequence[str], settings: SamplingSettings, first_row: int = 0
    ) -> Sequence[Generated]: ...


def quotes_about(tuned: Writer, tags: Sequence[str], n: int, settings: SamplingSettings) -> AboutResult:
    """At most `n` quotes with all of `tags`. A quote twice counts once, a copy of a training row not at all. The same
    seed finds the same quotes. Raises UsageError for a template without a list of tags, and where chance has no say."""
    wanted = [tag.strip() for tag in tags if tag.strip()]
    template = tuned.template
    if len(template.columns) < 2 or not {template.columns[0], template.columns[-1]} & {*template.list_columns}:
        raise UsageError(
            "--about needs a model whose template begins or ends in a list of tags",
            'Train with --template "{quote} ->: {tags}"',
        )
    if not wanted:
        raise UsageError("--about names no tag", "Type: florilegium generate --about love,hope")
    if n < 1:
        raise UsageError(f"-n is {n}", "It takes 1 or more")
    if settings.temperature == 0:
        raise UsageError("--about draws quotes, and at temperature 0 there is one", "Leave --temperature out")
    way = template.asked_by_tags
    return _asked(tuned, way, wanted, n, settings) if way else _chosen(tuned, wanted, n, settings)


def _asked(tuned: Writer, way: Template, tags: Sequence[str], n: int, settings: SamplingSettings) -> AboutResult:
    """Written for the tags: `n` at once, and those that are none or copies again, some times."""
    prompt = way.prompt({way.columns[0]: list(tags)})
    found: dict[str, Generated] = {}
    drawn = 0
    while drawn < ROUNDS * n and len(found) < n:
        missing = n - len(found)
        for row in tuned.complete([prompt] * missing, settings, first_row=drawn):
            if row.quote is not None and row.novel is not False:
                found.setdefault(row.text, row)
        drawn += missing
    return AboutResult(list(found.values()), drawn, (), asked=True)


def _chosen(tuned: Writer, tags: Sequence[str], n: int, settings: SamplingSettings) -> AboutResult:
    """Drawn from nothing, in the order in which they were drawn; kept for the tags that the model gives them."""
    wanted, column = {_key(tag) for tag in tags}, tuned.template.columns[-1]
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
