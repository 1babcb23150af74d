"""What the GPU knows while it writes: the state of every slot, the inputs of a step, and a step that was asked for
(`decoder.py`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass
class Slots:
    """What the GPU knows of each slot, [slots] each: the token to read next and its place, tokens written and allowed,
    whether it has ended, whether it wears the adapter; `rule` [slots, 4], `chance` [slots, places + 1], `seen` [slots,
    V]. And of each row of the step under way its `place`."""

    next_token: torch.Tensor
    length: torch.Tensor
    written: torch.Tensor
    limit: torch.Tensor
    done: torch.Tensor
    adapter: torch.Tensor
    rule: torch.Tensor
    chance: torch.Tensor
    seen: torch.Tensor
    place: torch.Tensor


@dataclass
class Inputs:
    """Token, place and slot of each row, and the rows whose next token is wanted; views of one piece of memory."""

    memory: torch.Tensor
    token: torch.Tensor
    place: torch.Tensor
    slot: torch.Tensor
    wanted: torch.Tensor

    @classmethod
    def make(cls, M: int, Q: int, **where: Any) -> Inputs:
        place, slot, wanted = inputs_places(M)
        memory = torch.full((wanted + Q,), -1, dtype=torch.int32, **where)
        return cls(memory, memory[:M], memory[place : place + M], memory[slot : slot + M], memory[wanted:])


def inputs_places(M: int) -> tuple[int, int, int]:
    """Where in that memory places, slots and wanted rows begin: at multiples of 16 bytes, or Triton would compile for
    each M anew."""
    each = -(-M // 4) * 4
    return each, 2 * each, 3 * each


@dataclass
class Step:
    """A step that was asked for: the slots whose tokens it chooses, and where they will be until `decode.STAGES` - 1
    more are asked for."""

    slots: list[int]
    _out: torch.Tensor
    _event: Any

    def tokens(self) -> list[int]:
        """One for each of `slots`; INACTIVE for a slot that had ended. Waits for the GPU."""
        if self._event is not None:
            self._event.synchronize()
        return [int(t) for t in self._out[: len(self.slots)].tolist()]


def make_slots(slots: int, places: int, V: int, M: int, device: torch.device) -> Slots:
    next_token, length, written, limit, done = (torch.zeros(slots, dtype=torch.int32, device=device) for _ in range(5))
    return Slots(
        next_token,
        length,
        written,
        limit,
        done,
        adapter=torch.ones(slots, device=device),
        rule=torch.zeros(slots, 4, device=device),
        chance=torch.zeros(slots, places + 1, device=device),
        seen=torch.zeros(slots, V, dtype=torch.uint8, device=device),
        place=torch.zeros(M, dtype=torch.int32, device=device),
    )
