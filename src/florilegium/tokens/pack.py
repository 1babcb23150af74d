"""From examples to batches: many quotes in one row, so that nearly every position is a real token.

english_quotes in padded batches of 4 is 1.9 times padding. Packed, a row holds many quotes back to back; `document_BT`
says which token belongs to which quote, and the model's attention stays inside it (`model/packed_forward.py`). Three quotes a,
b, c of 3, 4 and 2 tokens, `.` their end-of-text, `_` padding, in rows of 6:

    tokens_BT      a0 a1 b0 b1 b2 _         targets_BT    a1  .  b1 b2  .  _         document_BT   0 0 1 1 1 -1
                   c0 _  _  _  _  _                        .  _   _  _  _  _                       2 ...

End-of-text is a target only: as an input it would predict nothing, so it takes no place in the row. Shapes: B rows, T
tokens."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch

from florilegium.tokens.encode import Example, numbered

NO_TARGET = -100  # the field's convention for "not learned": torch's cross_entropy ignores it
NO_DOCUMENT = -1
MOST_ROWS = 256  # of a batch of padded rows: what is tried grows with it


@dataclass(frozen=True)
class Batch:
    """Packed rows. `num_tokens` counts the examples' tokens (end-of-text included), `num_targets` those that are
    learned."""

    tokens_BT: torch.Tensor  # int64
    targets_BT: torch.Tensor  # int64, NO_TARGET where nothing is learned
    document_BT: torch.Tensor  # int32, NO_DOCUMENT where padded
    position_BT: torch.Tensor  # int32, counted from the start of each document
    remaining_BT: torch.Tensor  # int32, tokens from here to the end of the document, this one included; 1 where padded
    number_BT: torch.Tensor  # int32, of the token among all those of its step, by which dropout draws; 0 where padded
    # int64, places of the targets in the flattened rows (bucketed: and of places without); all, if as many
    target_index_N: torch.Tensor
    num_tokens: int
    num_targets: int
    one_a_row: bool = False  # no row holds two documents
    seed_1: torch.Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.int64))  # of this batch's dropout

    @property
    def padding_share(self) -> float:
        return 1.0 - float((self.document_BT >= 0).float().mean())

    def to(self, device: torch.device | str) -> Batch:
        """The batch there. To a CUDA device it is copied from pinned memory, while the host goes on."""
        pinned = torch.device(device).type == "cuda"
        tensors = {
            f.name: getattr(self, f.name) for f in fields(self) if isinstance(getattr(self, f.name), torch.Tensor)
        }
        moved = {name: (t.pin_memory() if pinned else t).to(device, non_blocking=pinned) for name, t in tensors.items()}
        return replace(self, **moved)


@dataclass(frozen=True)
class PackPlan:
    """How rows are made. `row_tokens`: length aimed at; `multiple`: a row's length is rounded up to it; `batch_tokens`:
    at most so many positions are held at once (a step has more micro-batches then); `separate`: one quote a row, for
    models that cannot pack, in batches of like length, of which one more costs as much as `batch_cost` positions;
    `bucketed`: lengths, of rows and of `target_index_N`, come from a short list, so that what was recorded for one serves
    many."""

    row_tokens: int = 256
    multiple: int = 8
    batch_tokens: int = 4096
    separate: bool = False
    bucketed: bool = False
    batch_cost: int = 32

    def round_up(self, size: int) -> int:
        """`size` or a little more: under a sixteenth more where lengths are bucketed."""
        multiple = max(self.multiple, 1 << max(0, size.bit_length() - 5)) if self.bucketed else self.multiple
        return -(-size // multiple) * multiple


def pack(examples: Sequence[Example], plan: PackPlan) -> list[Batch]:
    """All `examples` in as few positions as `plan` allows. No example is split or cut: a row grows to its longest."""
    if not examples:
        return []
    if any(example.number is None for example in examples):
        examples = numbered(examples)
    order = sorted(range(len(examples)), key=lambda i: (-len(examples[i].token_ids), i))
    sized = [(len(examples[i].token_ids) - 1, i) for i in order]
    groups = _like_lengths(sized, plan) if plan.separate else _groups(_rows(sized, plan), examples, plan)
    return [_batch([[examples[i] for i in row] for row in group], plan) for group in groups]


def _rows(sized: list[tuple[int, int]], plan: PackPlan) -> list[list[int]]:
    """As few rows as first-fit makes; where they share batches, each as wide as its widest, of about the same length: 310
    tokens are two rows of 155, not one of 256 and one of 54 that is padded to it."""
    rows = _first_fit(sized, plan)
    if plan.batch_tokens <= plan.row_tokens:  # a batch has one row
        return rows
    even, length = _even(sized, len(rows))
    return even if length <= max(plan.row_tokens, sized[0][0]) else rows


def _even(sized: list[tuple[int, int]], count: int) -> tuple[list[list[int]], int]:
    """Each document, longest first, into the row that is shortest yet; and the length of the longest row."""
    rows: list[list[int]] = [[] for _ in range(count)]
    lengths = [(0, r) for r in range(count)]
    for size, i in sized:
        length, r = heapq.heappop(lengths)
        rows[r].append(i)
        heapq.heappush(lengths, (length + size, r))
    return rows, max(length for length, _ in lengths)


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
    """Rows in batches of at most `batch_tokens` positions."""
    group: list[list[int]] = []
    longest = 0
    for row in rows:
        size = sum(len(examples[i].token_ids) - 1 for i in row)
        width = plan.round_up(max(longest, size))
        if group and width * (len(group) + 1) > plan.batch_tokens:
            yield group
            group, longest = [], 0
        group.append(row)
        longest = max(longest, size)
    yield group


def _like_lengths(sized: list[tuple[int, int]], plan: PackPlan) -> list[list[list[int]]]:
    """Documents, longest first, one a row, parted into the batches that cost least: each its positions, padding
    included, and `batch_cost`."""
    # least[n]: the cost of the first n, and where their last batch begins
    least: list[tuple[float, int]] = [(0, 0)]
    for n in range(1, len(sized) + 1):
        options = []
        for first in range(n - 1, max(-1, n - 1 - MOST_ROWS), -1):
            positions = plan.round_up(sized[first][0]) * (n - first)
            if positions > plan.batch_tokens and first < n - 1:
                break  # the batch would only grow
            options.append((least[first][0] + positions + plan.batch_cost, first))
        least.append(min(options))
    groups, n = [], len(sized)
    while n:
        first = least[n][1]
        groups.append([[i] for _, i in sized[first:n]])
        n = first
    return groups[::-1]


def _batch(rows: list[list[Example]], plan: PackPlan) -> Batch:
    """Filled in numpy: a tensor operation for each example would cost the host more than the step costs a GPU."""
    width = plan.round_up(max(sum(len(e.token_ids) - 1 for e in row) for row in rows))
    shape = (len(rows), width)
    tokens, targets = np.zeros(shape, np.int64), np.full(shape, NO_TARGET, np.int64)
    documents, remaining = np.full(shape, NO_DOCUMENT, np.int32), np.ones(shape, np.int32)
    positions, numbers = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    document = 0
    for b, row in enumerate(rows):
        start = 0
        for example in row:
            ids, size = np.asarray(example.token_ids), len(example.token_ids) - 1
            here = slice(start, start + size)
            tokens[b, here] = ids[:-1]
            targets[b, here] = np.where(example.loss_mask[1:], ids[1:], NO_TARGET)
            documents[b, here] = document
            positions[b, here] = np.arange(size)
            remaining[b, here] = np.arange(size, 0, -1)
            numbers[b, here] = positions[b, here] + (example.number or 0)
            document, start = document + 1, start + size
    flat = targets.ravel() != NO_TARGET
    (trained,) = flat.nonzero()
    num_targets = len(trained)
    if plan.bucketed and not flat.all():
        more = max(0, plan.round_up(num_targets) - num_targets)
        trained = (
            np.arange(len(flat))
            if num_targets + more == len(flat)
            else np.concatenate([trained, np.full(more, flat.argmin())])
        )
    one_a_row = all(len(row) == 1 for row in rows)
    num_tokens = sum(len(e.token_ids) for row in rows for e in row)
    parts = [torch.from_numpy(array) for array in (tokens, targets, documents, positions, remaining, numbers, trained)]
    return Batch(
        parts[0], parts[1], parts[2], parts[3], parts[4], parts[5], parts[6], num_tokens, num_targets, one_a_row
    )
