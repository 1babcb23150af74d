"""What a tuned model forgot: its loss on general text, before and after.

The text is cut into windows, which are measured as rows are (`losses.py`), and paired: each window is its own control.
Windows differ by a nat, what tuning does to one of them by a tenth of that; still an interval over few windows sees
large changes only, so it says what it sees, and how much text would see GOAL nats. Where a longer text is given, as many
windows are measured as that takes, by the spread of the first ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from florilegium.errors import DataError, counted
from florilegium.evaluation.confidence import difference
from florilegium.evaluation.losses import Part, decoded, example_losses, part_metrics, unpredicted_bytes
from florilegium.evaluation.metrics import Cloze, Forgetting, Metric
from florilegium.model import LoadedModel
from florilegium.tokens import Example, text_ids

GENERAL = Path(__file__).parent / "general.txt"
PIECE_TOKENS = 256
FIRST_WINDOWS, MOST_WINDOWS = 320, 3000  # at first, and where these do not see GOAL
GOAL = 0.02  # nats: a change that matters to nobody


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


def general_parts(loaded: LoadedModel, paragraphs: Sequence[str], most: int = FIRST_WINDOWS) -> list[Part]:
    """The losses of general text in windows of at most 256 tokens, no two paragraphs in one; of a long text `most` of
    them, evenly spread."""
    pieces = [
        ids[i : i + PIECE_TOKENS]
        for ids in text_ids(loaded.base.tokenizer, paragraphs)
        for i in range(0, len(ids), PIECE_TOKENS)
    ]
    pieces = [piece for piece in pieces if len(piece) >= 8]
    if len(pieces) > most:
        pieces = [pieces[len(pieces) * i // most] for i in range(most)]
    losses = example_losses(loaded, [Example(piece, [True] * len(piece)) for piece in pieces])
    return [
        Part(
            float(found.sum()),
            len(found),
            len(decoded(loaded.base, piece).encode()) - unpredicted_bytes(loaded.base, piece),
        )
        for piece, found in zip(pieces, losses, strict=True)
    ]


def forgetting(before: Sequence[Part], after: Sequence[Part], words: Cloze | None = None) -> Forgetting:
    """Loss on general text before and after tuning, and what it rose by (negative: fell), paired window by window."""
    tokens = [p.tokens for p in after]
    change = difference([p.nats for p in after], [p.nats for p in before], tokens)
    sees = (change.high - change.low) / 2 if change and len(after) > 1 else None
    needed = math.ceil(sum(tokens) * (sees / GOAL) ** 2) if sees is not None else None
    told = _sentence(change, sees, needed, sum(tokens))
    return Forgetting(part_metrics(before), part_metrics(after), change, len(after), sees, needed, told, words)


def windows_to_see(found: Forgetting) -> int:
    """How many windows it takes to see GOAL, with a fifth more, as `found` is one draw; MOST_WINDOWS at most."""
    if found.sees is None or found.sees <= GOAL:
        return found.windows
    return min(MOST_WINDOWS, math.ceil(1.2 * found.windows * (found.sees / GOAL) ** 2))


def _sentence(change: Metric | None, sees: float | None, needed: int | None, tokens: int) -> str:
    """What the interval can see, and what it takes to see GOAL."""
    if change is None or sees is None or needed is None:
        return "too little general text to say how much was forgotten; give more with --general FILE"
    found = f"smallest detectable change: {sees:.3f} nats per token ({counted(tokens, 'token')} of general text)"
    if needed <= tokens:
        return found
    return f"{found}; {GOAL} nats takes about {_rounded(needed):,} tokens: --general FILE"


def _rounded(count: int) -> int:
    """To two digits, upwards: it is an estimate."""
    unit = int(10 ** max(0, len(str(count)) - 2))
    return -(-count // unit) * unit
