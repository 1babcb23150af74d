"""What a tuned model forgot: its loss on general text, before and after.

The text is cut into pieces, which are measured as rows are (`losses.py`), and paired: each piece is its own control."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from florilegium.errors import DataError
from florilegium.evaluation.confidence import difference
from florilegium.evaluation.losses import Part, decoded, example_losses, part_metrics
from florilegium.evaluation.metrics import Forgetting
from florilegium.model import LoadedModel
from florilegium.tokens import Example, text_ids

GENERAL = Path(__file__).parent / "general.txt"
PIECE_TOKENS, MOST_PIECES = 256, 64


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
        Part(float(found.sum()), len(found), len(decoded(loaded.base, piece).encode()))
        for piece, found in zip(pieces, losses, strict=True)
    ]


def forgetting(before: Sequence[Part], after: Sequence[Part]) -> Forgetting:
    """Loss on general text before and after tuning, and what it rose by (negative: fell), paired piece by piece."""
    tokens = [p.tokens for p in after]
    change = difference([p.nats for p in after], [p.nats for p in before], tokens)
    return Forgetting(part_metrics(before), part_metrics(after), change)
