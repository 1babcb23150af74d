"""What a model loses on texts: for each row the negative log-likelihood of its tokens, the quote's and the tags' apart.

    token_ids     Be | kind | . | ->: | kindness | , | life | </s>
    part            quote              tags (what `--loss-on tags` learns: the last column and end-of-text)

The first token has nothing before it and is not predicted. Loss is in nats a token; perplexity its exponential; bits
per byte divides the row's bits by the UTF-8 bytes of its text, so that models with other vocabularies can be compared
(end-of-text costs bits and has no bytes, so a model that never stops pays for it). General texts, to see what was
forgotten, are cut into pieces and take the same way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from florilegium.data import Quote, Template
from florilegium.errors import DataError, ResourceError
from florilegium.evaluation.confidence import difference, ratio
from florilegium.evaluation.metrics import Forgetting, LossMetrics, RowLosses
from florilegium.model import Base, ForwardOptions, LoadedModel, token_losses
from florilegium.storage.library_errors import is_out_of_memory
from florilegium.tokens import NO_TARGET, Example, PackPlan, encode, pack, text_ids

GENERAL = Path(__file__).parent / "general.txt"
PIECE_TOKENS, MOST_PIECES = 256, 64
OPTIONS = ForwardOptions(("chunked-loss",))  # all logits of a vocabulary of 250,880 at once would not fit


@dataclass(frozen=True)
class Part:
    """Sums of one row: nats, predicted tokens, bytes of text."""

    nats: float
    tokens: int
    bytes: int


@torch.no_grad()
def example_losses(loaded: LoadedModel, examples: Sequence[Example], batch_tokens: int = 4096) -> list[np.ndarray]:
    """For each example the losses of its tokens but the first, float32 [len - 1], dropout off, whatever its loss mask
    says.

    Raises ResourceError when a row does not fit in memory.
    """
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
        raise ResourceError("a row does not fit in memory", "Evaluate with --device cpu, or with --bits 4") from error
    return [losses for _, losses in sorted(zip(order, found, strict=True), key=lambda pair: pair[0])]


def row_parts(
    loaded: LoadedModel, template: Template, quotes: Sequence[Quote], max_length: int, places: Sequence[str] = ()
) -> list[tuple[Part, Part]]:
    """Quote part and tag part of each row."""
    base = loaded.base
    examples = encode(base.tokenizer, template, quotes, max_length=max_length, loss_on="tags", places=places).examples
    parts = []
    for example, losses in zip(examples, example_losses(loaded, examples), strict=True):
        start = example.loss_mask.index(True)
        cut = max(start - 1, 0)  # losses[i] is that of token i + 1
        sizes = [len(_text(base, ids).encode()) for ids in (example.token_ids[:start], example.token_ids[:-1])]
        quote = Part(float(losses[:cut].sum()), cut, sizes[0])
        parts.append((quote, Part(float(losses[cut:].sum()), len(losses) - cut, sizes[1] - sizes[0])))
    return parts


def loss_metrics(parts: Sequence[tuple[Part, Part]]) -> RowLosses:
    """Loss, perplexity and bits per byte with their intervals: of whole rows and of their parts."""
    quotes, tags = [quote for quote, _ in parts], [tag for _, tag in parts]
    both = [Part(q.nats + t.nats, q.tokens + t.tokens, q.bytes + t.bytes) for q, t in parts]
    return RowLosses(part_metrics(both), part_metrics(quotes), part_metrics(tags))


def part_metrics(parts: Sequence[Part]) -> LossMetrics:
    nats, tokens = [p.nats for p in parts], [p.tokens for p in parts]
    bits = [p.nats / math.log(2) for p in parts]
    return LossMetrics(
        loss=ratio(nats, tokens),
        perplexity=ratio(nats, tokens, np.exp),
        bits_per_byte=ratio(bits, [p.bytes for p in parts]),
        tokens=sum(tokens),
    )


def read_general(path: Path) -> list[str]:
    """The paragraphs of a text file (a blank line parts them; so does a line's end in a file that has no blank line).

    Raises DataError for a file that cannot be read or has no text.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}", "--general takes a text file") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start})", "Save it as UTF-8") from None
    paragraphs = text.split("\n\n") if "\n\n" in text else text.split("\n")
    found = [p.strip() for p in paragraphs if p.strip()]
    if not found:
        raise DataError(f"{path} holds no text", "--general takes a text file")
    return found


def general_parts(loaded: LoadedModel, paragraphs: Sequence[str]) -> list[Part]:
    """The losses of general text in pieces of at most 256 tokens; of a long file 64 pieces, evenly spread."""
    pieces = [
        ids[i : i + PIECE_TOKENS]
        for ids in text_ids(loaded.base.tokenizer, paragraphs)
        for i in range(0, len(ids), PIECE_TOKENS)
    ]
    pieces = [piece for piece in pieces if len(piece) >= 8]
    if len(pieces) > MOST_PIECES:
        pieces = [pieces[len(pieces) * i // MOST_PIECES] for i in range(MOST_PIECES)]
    losses = example_losses(loaded, [Example(piece, [True] * len(piece)) for piece in pieces])
    return [
        Part(float(found.sum()), len(found), len(_text(loaded.base, piece).encode()))
        for piece, found in zip(pieces, losses, strict=True)
    ]


def forgetting(before: Sequence[Part], after: Sequence[Part]) -> Forgetting:
    """Loss on general text before and after tuning, and what it rose by (negative: fell), paired piece by piece."""
    tokens = [p.tokens for p in after]
    change = difference([p.nats for p in after], [p.nats for p in before], tokens)
    return Forgetting(part_metrics(before), part_metrics(after), change)


def _text(base: Base, token_ids: Sequence[int]) -> str:
    return str(base.tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))
