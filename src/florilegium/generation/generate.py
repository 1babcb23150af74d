"""Text out of a tuned model, and back into quotes: the way in (`data`, `tokens`) walked in reverse.

The template that rendered the training rows makes the prompts and parses what comes back, so the two cannot drift apart. A quote from
nothing has no token to begin with, and BLOOM was taught none: its first word is drawn from how the training rows begin, which the
adapter's folder remembers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from florilegium import fast
from florilegium.config import SamplingSettings
from florilegium.data import Quote, Template
from florilegium.errors import ResourceError, UsageError
from florilegium.generation.decode import BloomDecoder, Completion, Decoder, StockDecoder, complete
from florilegium.generation.sampling import chances
from florilegium.model.base import Base
from florilegium.tokens import end_of_text, text_ids

BATCH_ROWS = {"cpu": 16, "cuda": 64}


@dataclass(frozen=True)
class Generated:
    """What the model wrote: the whole text, the quote in it (None if it does not parse), whether the model stopped by itself, and
    whether the quote is new (None when there is nothing to compare with)."""

    text: str
    quote: Quote | None
    finished: bool
    novel: bool | None = None

    def as_row(self, template: Template) -> dict[str, Any]:
        """One JSON object: the template's columns, then text, finished, novel. Without a parse, text columns are None, lists empty."""
        empty: dict[str, Any] = {name: [] if name in template.list_columns else None for name in template.columns}
        return {**empty, **(self.quote or {}), "text": self.text, "finished": self.finished, "novel": self.novel}


def generate_texts(
    base: Base,
    model: Any,
    template: Template,
    prompts: Sequence[str],
    settings: SamplingSettings,
    *,
    openings: Mapping[str, int] | None = None,
    first_row: int = 0,
) -> list[Generated]:
    """One text for each prompt, in order. An empty prompt begins with a word drawn from `openings` (word -> count).

    Row i's chances depend on `settings.seed` and `first_row + i` alone. Raises UsageError for an empty prompt without openings,
    ResourceError when memory runs out.
    """
    eos = end_of_text(base.tokenizer)
    numbers = [first_row + i for i in range(len(prompts))]
    begun = [prompt or _opening(openings, settings, number) for prompt, number in zip(prompts, numbers, strict=True)]
    ids = text_ids(base.tokenizer, begun)
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))  # rows of like length together
    completions: dict[int, Completion] = {}
    size = BATCH_ROWS[base.device.type]
    with decoding(base, model) as decoder:
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            done = complete(decoder, [ids[i] for i in rows], [numbers[i] for i in rows], settings, eos)
            completions.update(zip(rows, done, strict=True))
    return [_generated(base, template, ids[i], completions[i]) for i in range(len(ids))]


@contextlib.contextmanager
def decoding(base: Base, model: Any) -> Iterator[Decoder]:
    """A decoder for the model, in evaluation mode; on the CPU, weights that fit are dequantised once instead of at every token."""
    was_training = model.training
    model.eval()
    dtype = base.compute_dtype
    try:
        with fast.frozen_linear.dequantised_once(model, dtype) if base.device.type == "cpu" else contextlib.nullcontext():
            yield BloomDecoder(base, model) if base.packs else StockDecoder(base, model)
    except torch.OutOfMemoryError as error:
        raise ResourceError("generation does not fit in memory", "Ask for fewer at once, or lower --max-new-tokens") from error
    finally:
        model.train(was_training)


def _opening(openings: Mapping[str, int] | None, settings: SamplingSettings, number: int) -> str:
    """The first word of a text from nothing, by how often training rows began with it."""
    if not openings:
        raise UsageError("there is no prompt, and the model has no record of how its training rows began", "Give a prompt")
    goal = float(chances(settings, number)[0]) * sum(openings.values())
    for word, count in openings.items():
        goal -= count
        if goal < 0:
            return word
    return next(iter(openings))


def _generated(base: Base, template: Template, prompt: Sequence[int], completion: Completion) -> Generated:
    text = str(base.tokenizer.decode([*prompt, *completion.token_ids], skip_special_tokens=True, clean_up_tokenization_spaces=False))
    return Generated(text, template.parse(text), completion.finished)
