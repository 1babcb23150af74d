"""The batch that goes through the layers, looked up where the thread has it: Transformers hands its modules the hidden
states alone.

    with through(rows):     backbone(input_ids=...)

Outside, where texts are written or another way was chosen, every module is what it was."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class PackedRows:
    """Rows laid end to end. Token t's document lies at start_T[t] .. end_T[t] (exclusive), int32; `number_T`, int32, are
    the tokens' numbers in the step and `seed`, int64 [1] there, the step's, by which the adapter's dropout is drawn; None:
    nothing is dropped."""

    start_T: torch.Tensor
    end_T: torch.Tensor
    number_T: torch.Tensor
    seed: torch.Tensor | None
    longest: int  # no document has more tokens

    def __len__(self) -> int:
        return len(self.start_T)

    @functools.cached_property
    def sizes(self) -> list[int]:
        """Tokens of each document, in order; a place without one is a document of its own. Waits for the device."""
        # by its begin, which all tokens of a document share and no two documents do
        counts: list[int] = torch.unique_consecutive(self.start_T, return_counts=True)[1].tolist()
        return counts


# of the thread: two models may train at once
_rows: ContextVar[PackedRows | None] = ContextVar("rows", default=None)


@contextlib.contextmanager
def through(rows: PackedRows) -> Iterator[None]:
    """Inside, the layers take these rows."""
    before = _rows.set(rows)
    try:
        yield
    finally:
        _rows.reset(before)


def here_and_again() -> tuple[contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]]:
    """torch's `context_fn` of a checkpoint: around a pass, and around the same again. On a GPU that is in a thread of
    autograd's, which knows no rows."""
    # asked while the first pass runs, in the thread that has them
    rows = _rows.get()
    return contextlib.nullcontext(), contextlib.nullcontext() if rows is None else through(rows)


def rows_of(x: torch.Tensor, each: int | None = None) -> PackedRows | None:
    """The rows that go through, if `x` [..., K] has `each` numbers of each of their tokens, K unless it is said (a mixture's
    experts get some of the tokens)."""
    rows = _rows.get()
    return rows if rows is not None and x.numel() == len(rows) * (each or x.shape[-1]) else None
