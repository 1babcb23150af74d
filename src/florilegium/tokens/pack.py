"""From examples to batches: many quotes in one row, so that nearly every position is a real token.

english_quotes in padded batches of 4 is 1.9 times padding. Packed, a row holds many quotes back to back; `document_BT` says which token
belongs to which quote, and the model's attention stays inside it (`model/packed.py`). Three quotes a, b, c of 3, 4 and 2 tokens, `.`
their end-of-text, `_` padding, in rows of 6:

    tokens_BT      a0 a1 b0 b1 b2 _         targets_BT    a1  .  b1 b2  .  _         document_BT   0 0 1 1 1 -1
                   c0 _  _  _  _  _                        .  _   _  _  _  _                       2 ...

End-of-text is a target only: as an input it would predict nothing, so it takes no place in the row. Shapes: B rows, T tokens.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from florilegium.tokens.encode import Example

NO_TARGET = -100  # the field's convention for "not learned": torch's cross_entropy ignores it
NO_DOCUMENT = -1


@dataclass(frozen=True)
class Batch:
    """Packed rows. `num_tokens` counts the examples' tokens (end-of-text included), `num_targets` those that are learned."""

    tokens_BT: torch.Tensor  # int64
    targets_BT: torch.Tensor  # int64, NO_TARGET where nothing is learned
    document_BT: torch.Tensor  # int32, NO_DOCUMENT where padded
    position_BT: torch.Tensor  # int32, counted from the start of each document
    num_tokens: int
    num_targets: int

    @property
    def padding_share(self) -> float:
        return 1.0 - float((self.document_BT >= 0).float().mean())

    def to(self, device: torch.device | str) -> Batch:
        tokens, targets, document, position = (t.to(device) for t in (self.tokens_BT, self.targets_BT, self.document_BT, self.position_BT))
        return Batch(tokens, targets, document, position, self.num_tokens, self.num_targets)


@dataclass(frozen=True)
class PackPlan:
    """How rows are made. `row_tokens`: length aimed at; `multiple`: a row's length is rounded up to it; `batch_tokens`: at most so
    many positions are held at once (a step has more micro-batches then); `separate`: one quote a row, for models that cannot pack."""

    row_tokens: int = 256
    multiple: int = 8
    batch_tokens: int = 4096
    separate: bool = False


def epoch_order(num_rows: int, batch_rows: int, seed: int, epoch: int) -> list[list[int]]:
    """The optimiser steps of one epoch as lists of row numbers: a shuffle that depends on `seed` and `epoch` alone, cut every
    `batch_rows` (the last step may be shorter)."""
    order = list(range(num_rows))
    random.Random(f"florilegium {seed} {epoch}").shuffle(order)
    return [order[i : i + batch_rows] for i in range(0, num_rows, batch_rows)]


def pack(examples: Sequence[Example], plan: PackPlan) -> list[Batch]:
    """All `examples` in as few positions as `plan` allows. No example is split or cut: a row grows to its longest."""
    if not examples:
        return []
    order = sorted(range(len(examples)), key=lambda i: (-len(examples[i].token_ids), i))
    rows = [[i] for i in order] if plan.separate else _first_fit([(len(examples[i].token_ids) - 1, i) for i in order], plan)
    return [_batch([[examples[i] for i in row] for row in group], plan) for group in _groups(rows, examples, plan)]


def _first_fit(sized: list[tuple[int, int]], plan: PackPlan) -> list[list[int]]:
    """First-fit decreasing: each document into the first row with room. Within 1% of no padding on english_quotes."""
    capacity = max(plan.row_tokens, sized[0][0])
    rows: list[list[int]] = []
    room: list[int] = []
    for size, i in sized:
        for r, free in enumerate(room):
            if size <= free:
                rows[r].append(i)
                room[r] -= size
                break
        else:
            rows.append([i])
            room.append(capacity - size)
    return rows


def _groups(rows: list[list[int]], examples: Sequence[Example], plan: PackPlan) -> Iterator[list[list[int]]]:
    """Rows in batches of at most `batch_tokens` positions; separate rows also part where padding would pass a quarter."""
    group: list[list[int]] = []
    real = longest = 0
    for row in rows:
        size = sum(len(examples[i].token_ids) - 1 for i in row)
        width = _round_up(max(longest, size), plan.multiple)
        ragged = plan.separate and (real + size) < 0.75 * width * (len(group) + 1)
        if group and (width * (len(group) + 1) > plan.batch_tokens or ragged):
            yield group
            group, real, longest = [], 0, 0
        group.append(row)
        real, longest = real + size, max(longest, size)
    yield group


def _batch(rows: list[list[Example]], plan: PackPlan) -> Batch:
    width = _round_up(max(sum(len(e.token_ids) - 1 for e in row) for row in rows), plan.multiple)
    shape = (len(rows), width)
    tokens = torch.zeros(shape, dtype=torch.int64)
    targets = torch.full(shape, NO_TARGET, dtype=torch.int64)
    documents = torch.full(shape, NO_DOCUMENT, dtype=torch.int32)
    positions = torch.zeros(shape, dtype=torch.int32)
    document = num_targets = 0
    for b, row in enumerate(rows):
        start = 0
        for example in row:
            size = len(example.token_ids) - 1
            here = slice(start, start + size)
            tokens[b, here] = torch.tensor(example.token_ids[:-1])
            learned = [t if m else NO_TARGET for t, m in zip(example.token_ids[1:], example.loss_mask[1:], strict=True)]
            targets[b, here] = torch.tensor(learned)
            documents[b, here] = document
            positions[b, here] = torch.arange(size, dtype=torch.int32)
            num_targets += sum(example.loss_mask[1:])
            document, start = document + 1, start + size
    return Batch(tokens, targets, documents, positions, sum(len(e.token_ids) for row in rows for e in row), num_targets)


def _round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
