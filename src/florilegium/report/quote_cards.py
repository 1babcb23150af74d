"""What the model wrote for the same prompt before it was trained and after: the part of the page that a person reads.

`samples.jsonl` has a row a prompt and evaluation, with the template's columns under `columns` where the text could be
parsed (earlier versions wrote them among the row's own keys): lists are shown as tags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

NOT_COLUMNS = ("text", "prompt", "step", "finished", "novel")


@dataclass(frozen=True)
class QuoteCard:
    """A text as a quote with tags; `tags` is empty where none were found in it."""

    step: int
    text: str
    tags: tuple[str, ...]


@dataclass(frozen=True)
class PromptCards:
    """The first text for a prompt and that of the adapter that was kept (else the last), and the others; of a run that
    stopped early there is one."""

    prompt: str
    before: QuoteCard | None
    after: QuoteCard
    between: tuple[QuoteCard, ...]


def prompt_cards(samples: Sequence[Mapping[str, object]], kept: object = None) -> list[PromptCards]:
    """Cards for each prompt, in the order in which prompts were given. `kept` is the step of the adapter that was kept,
    where one was chosen."""
    texts: dict[str, dict[int, QuoteCard]] = {}
    for row in samples:
        step = row.get("step")
        if isinstance(step, int) and isinstance(row.get("text"), str):
            texts.setdefault(str(row.get("prompt", "")), {})[step] = _card(step, row)
    found = []
    for prompt, by_step in texts.items():
        first, *others = sorted(by_step)
        after = kept if isinstance(kept, int) and kept in others else others[-1] if others else first
        between = tuple(by_step[step] for step in others if step != after)
        found.append(PromptCards(prompt, by_step[first] if others else None, by_step[after], between))
    return found


def _card(step: int, row: Mapping[str, object]) -> QuoteCard:
    """The row's text without what was parsed as tags out of it."""
    columns = row.get("columns")
    if not isinstance(columns, Mapping):
        columns = {name: value for name, value in row.items() if name not in NOT_COLUMNS}
    tags = [str(tag) for value in columns.values() if isinstance(value, list) for tag in value]
    words = [value for value in columns.values() if isinstance(value, str) and value]
    return QuoteCard(step, "\n".join(words) if words else str(row["text"]), tuple(tags))
