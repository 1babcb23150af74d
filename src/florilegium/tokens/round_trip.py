"""Whether a tokenizer gives a text back. One that lower-cases, splits off punctuation or knows too few words teaches a
model texts that nobody wrote, and no loss curve shows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from florilegium.data import Quote, Template
from florilegium.errors import ModelError
from florilegium.tokens.decode import text_of
from florilegium.tokens.encode import Example, text_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SAMPLED_ROWS = 64


def check_round_trip(
    tokenizer: PreTrainedTokenizerBase, template: Template, quotes: Sequence[Quote], name: str
) -> list[str]:
    """Encodes and decodes some rows: what is to be said of the tokenizer of the model `name`. Raises ModelError where
    the text comes back so changed that no row parses: then no text that the model writes would."""
    texts = [template.render(quote) for quote in quotes[:: max(1, len(quotes) // SAMPLED_ROWS)]][:SAMPLED_ROWS]
    rows = text_ids(tokenizer, texts)
    back = [text_of(tokenizer, ids) for ids in rows]
    asked = [text for text in texts if template.parse(text) is not None]
    if asked and not any(template.parse(text) is not None for text in back):
        raise ModelError(
            f"the tokenizer of {name} does not round-trip text: {texts[0][-60:]!r} becomes {back[0][-60:]!r}, which "
            "--template cannot read",
            "Choose another model, or a --template whose marks its tokenizer keeps",
        )
    notes = []
    changed = sum(" ".join(text.split()) != " ".join(came.split()) for text, came in zip(texts, back, strict=True))
    unknown, total = tokenizer.unk_token_id, sum(map(len, rows))
    lost = sum(ids.count(unknown) for ids in rows) if unknown is not None else 0
    if lost:
        notes.append(f"the tokenizer of {name} does not know {lost / total:.0%} of these tokens: they become <unk>")
    elif 4 * changed > len(texts):
        notes.append(f"the tokenizer of {name} changes text: {changed} of {len(texts)} differ after decoding")
    return notes


def inner_ends(examples: Sequence[Example], end: int) -> list[int]:
    """Which examples are trained to write the end-of-text token before their end: a model learns to stop there."""
    return [
        number
        for number, example in enumerate(examples)
        if end in example.token_ids[:-1]
        and any(t == end and trained for t, trained in zip(example.token_ids[:-1], example.loss_mask, strict=False))
    ]
