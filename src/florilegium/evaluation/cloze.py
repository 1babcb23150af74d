"""A task that a base can do, before and after tuning: which of four words comes next in a sentence of general text.

    The people who live beside it have a saying that the river is a good ...     neighbour | levers | without | thinly

The right word stands first in an item; the others are words of the same text, of nearly the same length, drawn with a
fixed seed. The model chooses the one whose tokens are most likely together. Chance is one in four. Both sides choose
among the same, so the difference is paired, item by item: a tuned model that lost its general knowledge chooses worse."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from florilegium.evaluation.confidence import mean, share
from florilegium.evaluation.losses import example_losses
from florilegium.evaluation.metrics import Cloze
from florilegium.model import LoadedModel
from florilegium.tokens import Example, text_ids

CHOICES, CONTEXT_WORDS, FEWEST_BEFORE, EVERY = 4, 16, 8, 12
MOST_ITEMS, FEWEST_ITEMS, SHORTEST_WORD = 160, 20, 4
LIKE_LENGTH = 12  # how many words of the nearest lengths the wrong ones are drawn from


@dataclass(frozen=True)
class ClozeItem:
    """What stands before, and the words to choose from, the right one first."""

    context: str
    words: tuple[str, ...]


def cloze_items(paragraphs: Sequence[str], most: int = MOST_ITEMS, seed: int = 0) -> list[ClozeItem]:
    """At most `most` items, evenly spread over the text; the same for the same text."""
    chance = random.Random(f"florilegium cloze {seed}")
    texts = [paragraph.split() for paragraph in paragraphs]
    known = sorted({word for text in texts for word in text if _is_word(word)}, key=lambda word: (len(word), word))
    places = [
        (text, i)
        for text in texts
        for i in range(FEWEST_BEFORE, len(text))
        if _is_word(text[i]) and text[i] == text[i].lower()
    ][::EVERY]
    if len(places) > most:
        places = [places[len(places) * i // most] for i in range(most)]
    items = []
    for text, i in places:
        wrong = _wrong_words(text[i], known, chance)
        if len(wrong) == CHOICES - 1:
            items.append(ClozeItem(" ".join(text[max(0, i - CONTEXT_WORDS) : i]), (text[i], *wrong)))
    return items


def _wrong_words(right: str, known: Sequence[str], chance: random.Random) -> list[str]:
    near = sorted((word for word in known if word != right and word.islower()), key=lambda w: abs(len(w) - len(right)))
    return chance.sample(near[:LIKE_LENGTH], min(CHOICES - 1, len(near)))


def _is_word(word: str) -> bool:
    return len(word) >= SHORTEST_WORD and word.isalpha()


def right_choices(loaded: LoadedModel, items: Sequence[ClozeItem]) -> list[bool]:
    """For each item whether the right word is the most likely; a tie is wrong."""
    texts = [f"{item.context} {word}" for item in items for word in item.words]
    ids = text_ids(loaded.base.tokenizer, texts)
    losses = example_losses(loaded, [Example(row, [True] * len(row)) for row in ids])
    chosen = []
    for first in range(0, len(ids), CHOICES):
        rows, found = ids[first : first + CHOICES], losses[first : first + CHOICES]
        cut = max(_shared(rows) - 1, 0)  # losses[i] is that of token i + 1
        nats = [float(own[cut:].sum()) for own in found]
        chosen.append(nats[0] < min(nats[1:]))
    return chosen


def _shared(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens all of them begin with."""
    return next((i for i, column in enumerate(zip(*rows, strict=False)) if len(set(column)) > 1), min(map(len, rows)))


def cloze_metrics(before: Sequence[bool], after: Sequence[bool]) -> Cloze | None:
    """Shares of right choices and their paired difference; None for a text with too few items."""
    if len(after) < FEWEST_ITEMS:
        return None
    change = mean([float(mine) - float(theirs) for mine, theirs in zip(after, before, strict=True)])
    return Cloze(share(before), share(after), change, len(after), 1 / CHOICES)
