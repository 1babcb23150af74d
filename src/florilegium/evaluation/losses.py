"""What a model loses on texts: for each row the negative log-likelihood of its tokens, words and constants apart.

    token_ids     Be | kind | . |  ->: | kindness | , | life | </s>
    part          quote words     separator  tag words  comma   end      (`token_parts.py`)
    half          quote                  tags (what `--loss-on tags` trains: the last column and end-of-text)

The first token has nothing before it and is not predicted. Loss is in nats a token; perplexity its exponential; bits
per byte divides the row's bits by the UTF-8 bytes of the text that was predicted, so that models with other vocabularies
can be compared (end-of-text costs bits and has no bytes, so over whole rows a model that never stops pays for it). A
tokenizer that writes a BOS first has all of the text predicted; of another one the first token's bytes do not count."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from florilegium.data import Quote, Template
from florilegium.errors import ResourceError
from florilegium.evaluation.confidence import ratio
from florilegium.evaluation.metrics import LossMetrics, RowLosses
from florilegium.evaluation.token_parts import PARTS, WORDS, bytes_of_parts, parts_of_tokens
from florilegium.model import Base, ForwardOptions, LoadedModel, token_losses
from florilegium.storage.library_errors import is_out_of_memory
from florilegium.tokens import NO_TARGET, Example, PackPlan, encode, pack, text_of

OPTIONS = ForwardOptions(("chunked-loss",))  # all logits of a vocabulary of 250,880 at once would not fit


@dataclass(frozen=True)
class Part:
    """Sums of one row: nats, predicted tokens, and the bytes of their text."""

    nats: float
    tokens: int
    bytes: int

    def __add__(self, other: Part) -> Part:
        return Part(self.nats + other.nats, self.tokens + other.tokens, self.bytes + other.bytes)


@dataclass(frozen=True)
class RowParts:
    """A row in halves, the separator with the quote, commas and end-of-text with the tags; and in the parts of
    `token_parts.py`."""

    quote: Part
    tags: Part
    parts: Mapping[str, Part]

    @property
    def words(self) -> Part:
        """The quote's and the tags' words, without what is the same in every row."""
        quote, tags = (self.parts[name] for name in WORDS)
        return quote + tags

    @property
    def turned(self) -> RowParts:
        """The same of a template that begins with its tags: the quote stands behind them."""
        return RowParts(self.tags, self.quote, self.parts)


@torch.no_grad()
def example_losses(loaded: LoadedModel, examples: Sequence[Example], batch_tokens: int = 4096) -> list[np.ndarray]:
    """For each example the losses of its tokens but the first, float32 [len - 1], dropout off, whatever its loss mask
    says.

    Raises ResourceError when a row does not fit in memory.
    """
    sizes = [len(example.token_ids) for example in examples]
    found = loaded.by_all(sizes, lambda share: _losses(loaded, [examples[i] for i in share], batch_tokens))
    return [np.array(losses, dtype=np.float32) for losses in found]


def _losses(loaded: LoadedModel, examples: Sequence[Example], batch_tokens: int) -> list[list[float]]:
    order = sorted(range(len(examples)), key=lambda i: (-len(examples[i].token_ids), i))
    whole = [Example(examples[i].token_ids, [True] * len(examples[i].token_ids)) for i in order]
    found: list[np.ndarray] = []
    try:
        with loaded.evaluating():
            # One example a row: padding is little, since rows of like length come together, and losses come back row by
            # row.
            for batch in pack(whole, PackPlan(batch_tokens=batch_tokens, separate=True)):
                losses_N = token_losses(loaded, batch.to(loaded.base.device), OPTIONS).float().cpu().numpy()
                counts = (batch.targets_BT != NO_TARGET).sum(-1).tolist()
                found += np.split(losses_N, np.cumsum(counts)[:-1])
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        ways = [] if loaded.base.device.type == "cpu" else ["with --device cpu"]
        ways += [] if loaded.base.bits == 4 else ["with --bits 4"]
        fix = f"Evaluate {' or '.join(ways)}" if ways else "Close other programs, or use a machine with more memory"
        raise ResourceError("a row does not fit in memory", fix) from error
    return [losses.tolist() for _, losses in sorted(zip(order, found, strict=True), key=lambda pair: pair[0])]


def row_parts(
    loaded: LoadedModel, template: Template, quotes: Sequence[Quote], max_length: int, places: Sequence[str] = ()
) -> list[RowParts]:
    """Each row in its halves and parts."""
    tokenizer = loaded.base.tokenizer
    encoded = encode(tokenizer, template, quotes, max_length=max_length, loss_on="tags", places=places)
    ids = [example.token_ids for example in encoded.examples]
    names = parts_of_tokens(tokenizer, template, encoded.quotes, ids)
    losses = example_losses(loaded, encoded.examples)
    rows = zip(encoded.quotes, encoded.examples, losses, names, strict=True)
    found = []
    for quote, example, nats, own in rows:
        sizes = bytes_of_parts(template, quote, unpredicted_bytes(loaded.base, example.token_ids))
        found.append(RowParts(*_halves(loaded.base, example, nats), _by_part(nats, own[1:], sizes)))
    return found


def unpredicted_bytes(base: Base, token_ids: Sequence[int]) -> int:
    """UTF-8 bytes of the first token, which nothing predicts: 0 of a BOS."""
    return len(decoded(base, token_ids[:1]).encode())


def _halves(base: Base, example: Example, losses: np.ndarray) -> tuple[Part, Part]:
    start = example.loss_mask.index(True)
    cut = max(start - 1, 0)  # losses[i] is that of token i + 1
    sizes = [len(decoded(base, ids).encode()) for ids in (example.token_ids[:start], example.token_ids[:-1])]
    first = unpredicted_bytes(base, example.token_ids)
    middle = max(sizes[0], first)  # a row whose first token is of its last column has nothing before that
    quote = Part(float(losses[:cut].sum()), cut, middle - first)
    return quote, Part(float(losses[cut:].sum()), len(losses) - cut, sizes[1] - middle)


def _by_part(losses: np.ndarray, names: Sequence[str], sizes: Mapping[str, int]) -> dict[str, Part]:
    here = {name: np.array([own == name for own in names], dtype=bool) for name in PARTS}
    return {name: Part(float(losses[here[name]].sum()), int(here[name].sum()), sizes[name]) for name in PARTS}


def loss_metrics(rows: Sequence[RowParts]) -> RowLosses:
    """Loss, perplexity and bits per byte with their intervals: of whole rows, of their halves, and of their parts."""
    parts = {"words": part_metrics([row.words for row in rows])}
    parts |= {name: part_metrics([row.parts[name] for row in rows]) for name in PARTS}
    quotes, tags = [row.quote for row in rows], [row.tags for row in rows]
    both = [quote + tag for quote, tag in zip(quotes, tags, strict=True)]
    return RowLosses(part_metrics(both), part_metrics(quotes), part_metrics(tags), parts)


def part_metrics(parts: Sequence[Part]) -> LossMetrics:
    nats, tokens = [p.nats for p in parts], [p.tokens for p in parts]
    bits = [p.nats / math.log(2) for p in parts]
    return LossMetrics(
        loss=ratio(nats, tokens),
        perplexity=ratio(nats, tokens, np.exp),
        bits_per_byte=ratio(bits, [p.bytes for p in parts]),
        tokens=sum(tokens),
    )


def decoded(base: Base, token_ids: Sequence[int]) -> str:
    """The text of the tokens, special ones left out."""
    return text_of(base.tokenizer, token_ids)
