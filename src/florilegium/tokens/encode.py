"""From text to token ids: what the model reads of a row, and which tokens it is asked to learn.

    quote                  {"quote": "Be kind.", "tags": ["kindness", "life"]}
    template.render        "Be kind. ->: kindness, life"
    Example.token_ids      Be | kind | . | ->: | kindness | , | life | </s>
    Example.loss_mask      with --loss-on tags: 0 | 0 | 0 | 0 | 1 | 1 | 1 | 1; with all: every token

Two things are easy to get wrong and cannot be seen in a loss curve. A model that is never asked for end-of-text never
stops: here it is appended to every row, learned in every row (whatever the padding token is), and what is too long
loses words of the quote, never its end. A prompt that tokenises otherwise than the training text asks for something
that was never taught: `preflight` compares the ids of every prompt with those of its row, before any training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from florilegium.data.words import PIECE
from florilegium.errors import DataError, ModelError, reason_of
from florilegium.storage.library_errors import is_panic
from florilegium.storage.native_stderr import native_stderr_away

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from florilegium.data import Quote, Template


ROWS_AT_ONCE = 4096  # beside its ids a tokenizer keeps offsets, masks and pieces of each row, until these are let go


@dataclass(frozen=True)
class Example:
    """One row as the model sees it. `loss_mask[i]` says whether the model is asked to predict `token_ids[i]`. `number` is
    that of its first token among all tokens of a step, once it is in one (`numbered`)."""

    token_ids: list[int]
    loss_mask: list[bool]
    number: int | None = None


def numbered(examples: Sequence[Example]) -> list[Example]:
    """The rows of a step, each with the number of its first token: the same wherever it is packed, and by whom."""
    firsts = accumulate((len(example.token_ids) - 1 for example in examples), initial=0)
    return [replace(example, number=first) for example, first in zip(examples, firsts, strict=False)]


@dataclass(frozen=True)
class Encoded:
    """Examples in the order of their quotes, how many of those quotes had to be cut to fit, and the quotes as they were
    encoded."""

    examples: list[Example]
    num_cut: int
    quotes: list[Quote]

    def __add__(self, other: Encoded) -> Encoded:
        """These rows, then the other's."""
        examples, quotes = [*self.examples, *other.examples], [*self.quotes, *other.quotes]
        return Encoded(examples, self.num_cut + other.num_cut, quotes)


def end_of_text(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id of the tokenizer's end-of-text token. Raises ModelError when it has none."""
    if tokenizer.eos_token_id is None:
        raise ModelError(
            "the tokenizer has no end-of-text token", "A model cannot learn to stop without one: choose another --model"
        )
    return int(tokenizer.eos_token_id)


def text_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text with what the tokenizer itself puts in front, and without an end-of-text at the end."""
    if not texts:
        return []
    eos = end_of_text(tokenizer)
    # verbose=False: transformers warns of texts beyond the model's length, which are cut right after.
    try:
        with native_stderr_away():
            batch: Any = tokenizer(list(texts), add_special_tokens=True, verbose=False)["input_ids"]
    except BaseException as error:
        if not is_panic(error):
            raise
        raise ModelError(f"the tokenizer failed on a text ({reason_of(error)})", "Choose another --model") from None
    return [ids[:-1] if ids and ids[-1] == eos else ids for ids in batch]


def encode(
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    quotes: Sequence[Quote],
    *,
    max_length: int = 1024,
    loss_on: str = "all",
    places: Sequence[str] = (),
) -> Encoded:
    """Examples of at most `max_length` tokens, end-of-text included; `loss_on` is 'all' or 'tags' (the last column and
    end-of-text).

    Raises DataError, naming the row's place, when a row's tags alone do not fit or its prompt is not a prefix of it.
    """
    places = places or [f"row {number + 1}" for number in range(len(quotes))]
    numbers: dict[int, int] = {}
    whole = Encoded([], 0, [])
    for first in range(0, len(quotes), ROWS_AT_ONCE):
        part = slice(first, first + ROWS_AT_ONCE)
        found = _encode_part(tokenizer, template, quotes[part], max_length, loss_on, places[part])
        # One object for each id, however often it comes: a million rows are 1 GB of memory and not 11.
        for example in found.examples:
            example.token_ids[:] = [numbers.setdefault(token, token) for token in example.token_ids]
        whole = whole + found
    return whole


def _encode_part(
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    quotes: Sequence[Quote],
    max_length: int,
    loss_on: str,
    places: Sequence[str],
) -> Encoded:
    eos = end_of_text(tokenizer)
    ids = text_ids(tokenizer, [template.render(quote) for quote in quotes])
    num_cut = 0
    kept = list(quotes)
    for i, row in enumerate(ids):
        if len(row) + 1 > max_length:
            kept[i], ids[i] = _cut(tokenizer, template, quotes[i], max_length, places[i])
            num_cut += 1
    prompts = text_ids(tokenizer, [label_prompt(template, quote) for quote in kept])
    examples = []
    for row, prompt in zip(ids, prompts, strict=True):
        first = len(prompt) if loss_on == "tags" else 0
        examples.append(Example([*row, eos], [i >= first for i in range(len(row) + 1)]))
    preflight(examples, prompts, eos, places)
    return Encoded(examples, num_cut, kept)


def encode_ways(
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    quotes: Sequence[Quote],
    *,
    max_length: int,
    loss_on: str,
    places: Sequence[str],
) -> Encoded:
    """`encode` in each way in which the template's rows are trained: all quote first, then those that have tags with their
    tags first. Each row in each way, and not one way by turns: rows are few, and a pass should show all of each."""
    first = encode(tokenizer, template, quotes, max_length=max_length, loss_on=loss_on, places=places)
    if template.tags_first is None:
        return first
    tagged = [i for i, quote in enumerate(quotes) if quote[template.columns[-1]]]
    return first + encode(
        tokenizer,
        template.tags_first,
        [quotes[i] for i in tagged],
        max_length=max_length,
        loss_on=loss_on,
        places=[places[i] for i in tagged],
    )


def label_prompt(template: Template, quote: Quote) -> str:
    """The text up to where the last column begins: the prompt that asks for the tags of this quote."""
    return template.prompt({name: quote[name] for name in template.columns[:-1]})


def preflight(examples: Sequence[Example], prompts: Sequence[list[int]], eos: int, places: Sequence[str] = ()) -> None:
    """Refuses to train on rows that would teach the wrong thing; see the top of this file. Raises DataError."""
    for i, (example, prompt) in enumerate(zip(examples, prompts, strict=True)):
        place = places[i] if places else f"row {i + 1}"
        if example.token_ids[-1] != eos or not example.loss_mask[-1]:
            raise DataError(
                f"{place}: the last trained token is not end-of-text",
                "The model would never learn to stop: report this row",
            )
        if example.token_ids[: len(prompt)] != prompt:
            raise DataError(
                f"{place}: the prompt's tokens are not the beginning of the row's tokens",
                "End the text before the last column of --template in a mark that stands alone, such as ' ->:'",
            )
        if not any(example.loss_mask[1:]):
            raise DataError(f"{place}: no token to train on", "Skip the row with --skip-bad-rows")


def _cut(
    tokenizer: PreTrainedTokenizerBase, template: Template, quote: Quote, max_length: int, place: str
) -> tuple[Quote, list[int]]:
    """The quote with as many words of its text as fit, and its ids; as many signs, where a script has no spaces. The
    text is cut, not the ids: it stays a real text."""
    first = template.columns[0] if template.columns[0] not in template.list_columns else template.main_column
    words = PIECE.findall(str(quote[first]))
    low, high = 0, len(words)  # low words fit, high words do not; 0 is checked below
    best: tuple[Quote, list[int]] | None = None
    while high - low > 1:
        middle = (low + high) // 2
        shorter: Quote = {**quote, first: "".join(words[:middle]).strip() or words[0]}
        row = text_ids(tokenizer, [template.render(shorter)])[0]
        if len(row) + 1 <= max_length:
            low, best = middle, (shorter, row)
        else:
            high = middle
    if best is None:
        raise DataError(
            f"{place}: does not fit in {max_length} tokens even with one word of its {first}", "Raise --max-length"
        )
    return best
