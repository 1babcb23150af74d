"""Which part of a row each of its tokens belongs to, so that a loss of words holds no constants.

    Be | kind | . | ->: | kindness | , | life | </s>
    quote words     separator  tag words  comma  tag words  end

A token belongs to what its first character that is no space stands in: the space before a word is the word's, whatever
the template wrote it with. The separator, the commas and end-of-text are the same in every row; a base model loses much
on them, a tuned one nearly nothing, and neither has to do with quotes or tags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from florilegium.data import Quote, Template
from florilegium.data.quote import Value
from florilegium.tokens import text_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

QUOTE_WORDS, SEPARATOR, TAG_WORDS, COMMAS, END = PARTS = ("quote_words", "separator", "tag_words", "commas", "end")
WORDS = (QUOTE_WORDS, TAG_WORDS)


@dataclass(frozen=True)
class Stretch:
    """Characters of a rendered row that belong to one part."""

    part: str
    text: str


def stretches(template: Template, quote: Mapping[str, Value]) -> list[Stretch]:
    """The rendered row, end to end. Tag words are those of lists and of the last column, unless it is the main one."""
    found = []
    for column, text in template.pieces(quote):
        value = quote.get(column, "")
        is_tags = column != template.main_column and column in (*template.list_columns, template.columns[-1])
        if column and not isinstance(value, str):
            items = [Stretch(TAG_WORDS if is_tags else QUOTE_WORDS, item) for item in value]
            found += [s for item in items for s in (Stretch(COMMAS, ", "), item)][1:]
        else:
            found.append(Stretch(SEPARATOR if not column else TAG_WORDS if is_tags else QUOTE_WORDS, text))
    return found


def bytes_of_parts(template: Template, quote: Mapping[str, Value], skipped: int = 0) -> dict[str, int]:
    """UTF-8 bytes of each part behind the first `skipped` of the row; end-of-text has none."""
    sizes = dict.fromkeys(PARTS, 0)
    for stretch in stretches(template, quote):
        size = len(stretch.text.encode())
        sizes[stretch.part] += max(size - skipped, 0)
        skipped = max(skipped - size, 0)
    return sizes


def parts_of_tokens(
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    quotes: Sequence[Quote],
    token_ids: Sequence[Sequence[int]],
) -> list[list[str]]:
    """For each row the part of each of its tokens; the last one is end-of-text."""
    texts = [template.render(quote) for quote in quotes]
    starts = _starts(tokenizer, texts, token_ids)
    return [
        [*_parts(stretches(template, quote), text, begins), END]
        for quote, text, begins in zip(quotes, texts, starts, strict=True)
    ]


def _parts(row: Sequence[Stretch], text: str, begins: Sequence[int]) -> list[str]:
    part_of = [stretch.part for stretch in row for _ in stretch.text]
    found = []
    for begin in begins:
        while begin < len(text) - 1 and text[begin].isspace():
            begin += 1
        found.append(part_of[min(begin, len(part_of) - 1)])
    return found


def _starts(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], token_ids: Sequence[Sequence[int]]
) -> list[list[int]]:
    """Where in its text each token but end-of-text begins."""
    if not texts or not tokenizer.is_fast:  # tokenizers in Python do not tell: the text of what stands before does
        return [[_length(tokenizer, ids[:i]) for i in range(len(ids) - 1)] for ids in token_ids]
    found: Any = tokenizer(list(texts), add_special_tokens=True, return_offsets_mapping=True, verbose=False)
    rows = zip(found["offset_mapping"], token_ids, strict=True)
    return [[begin for begin, _ in offsets[: len(ids) - 1]] for offsets, ids in rows]


def _length(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> int:
    return len(text_of(tokenizer, ids))
