"""What the GPU knows while it decodes: the state of every slot, the inputs of a step, and a step that was asked for
(`decoder.py`). It all lies there so that a step can be asked for before the tokens of the last one are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

# Columns of `SlotState.sampling_params`; `sampling_kernel.py` reads them by the same names.
TEMPERATURE, TOP_P, TOP_K, PENALTY = range(4)


class SamplingParams(Protocol):
    """The fields of SamplingSettings that decoding reads."""

    @property
    def temperature(self) -> float: ...
    @property
    def top_p(self) -> float: ...
    @property
    def top_k(self) -> int: ...
    @property
    def repetition_penalty(self) -> float: ...


@dataclass(frozen=True)
class SlotState:
    """What the GPU knows of each slot, [slots] each: the token to read next and its position, tokens written and
    allowed, whether it has ended; `sampling_params` [slots, 4], `uniforms` [slots,
    capacity + 1], `seen` [slots, V]. And of each row of the step under way its `position`."""

    next_token: torch.Tensor
    length: torch.Tensor
    written: torch.Tensor
    limit: torch.Tensor
    done: torch.Tensor
    sampling_params: torch.Tensor
    uniforms: torch.Tensor
    seen: torch.Tensor
    position: torch.Tensor

    def admit(
        self, slots: Sequence[int], limits: Sequence[int], uniforms: Sequence[torch.Tensor], settings: Sequence[SamplingParams],
        prompts: Sequence[Sequence[int]],
    ) -> None:  # fmt: skip
        """New texts in these slots (`Decoder.admit`)."""
        device, most = self.uniforms.device, self.uniforms.shape[1]
        # One table, one copy: slot, limit, four sampling parameters, then the uniform numbers.
        # the dtype is said: a load in another thread changes torch's default meanwhile
        table = torch.zeros(len(slots), 6 + most, dtype=torch.float32)
        for row, slot, limit, chosen, numbers in zip(table, slots, limits, settings, uniforms, strict=True):
            row[:6] = torch.tensor(
                [slot, limit, chosen.temperature, chosen.top_p, chosen.top_k, chosen.repetition_penalty],
                dtype=torch.float32,
            )
            row[6 : 6 + len(numbers)] = numbers
        # From pinned memory, or the copy would wait for the step under way.
        table = (table.pin_memory() if device.type == "cuda" else table).to(device, non_blocking=True)
        at = table[:, 0].long()
        self.limit[at] = table[:, 1].int()
        self.sampling_params[at], self.uniforms[at] = table[:, 2:6], table[:, 6:]
        # index_fill_, because `tensor[at] = 0` would copy the 0 from the host and wait for it
        self.done.index_fill_(0, at, 0)
        self.written.index_fill_(0, at, 0)
        for slot, chosen, prompt in zip(slots, settings, prompts, strict=True):
            if chosen.repetition_penalty != 1:
                self.seen[slot] = 0
                self.seen[slot, torch.tensor(list(prompt), device=device)] = 1


@dataclass(frozen=True)
class StepInputs:
    """Token, position, slot and adapter's place of each row; the rows whose next token is sampled, and for which slot
    (several may share a row); and of the adapters how many are used and which (`matmul_kernel.LoraOperands`). Views of
    one piece of memory, so that one copy brings all."""

    memory: torch.Tensor
    token: torch.Tensor
    position: torch.Tensor
    slot: torch.Tensor
    place: torch.Tensor
    sample_rows: torch.Tensor
    sample_slots: torch.Tensor
    listed: torch.Tensor

    @classmethod
    def make(
        cls, M: int, Q: int, places: int, *, device: torch.device | None = None, pin_memory: bool = False
    ) -> StepInputs:
        """For M rows, of which Q are sampled, and up to that many adapters."""
        # at multiples of 16 bytes, or Triton would compile for each M anew; so `listed` also ends in a whole group
        sizes = [_whole(size) for size in (M, M, M, M, Q, Q)] + [1 + _whole(places)]
        # -1 is a row of no slot: what a step does not fill changes nothing
        memory = torch.full((sum(sizes),), -1, dtype=torch.int32, device=device, pin_memory=pin_memory)
        token, position, slot, place, *sampled, listed = memory.split(sizes)  # type: ignore[no-untyped-call]  # torch does not annotate it
        return cls(memory, token[:M], position[:M], slot[:M], place[:M], sampled[0][:Q], sampled[1][:Q], listed)

    @classmethod
    def staged(cls, M: int, Q: int, places: int, device: torch.device, stages: int) -> list[StepInputs]:
        """The GPU's, then the host's, one for each step that may be under way."""
        pin_memory = device.type == "cuda"
        on_host = [cls.make(M, Q, places, pin_memory=pin_memory) for _ in range(stages)]
        return [cls.make(M, Q, places, device=device), *on_host]

    def fill(
        self, rows: Sequence[tuple[int, int, int]], places: Sequence[int], sample_rows: Sequence[int],
        sample_slots: Sequence[int],
    ) -> None:  # fmt: skip
        """`rows` (slot, token, position), the place of each row's adapter, the rows that are sampled and for whom."""
        self.memory.fill_(-1)  # rows beyond those that came belong to no slot
        columns = torch.tensor([(*row, place) for row, place in zip(rows, places, strict=True)], dtype=torch.int32).T
        for own, column in zip((self.slot, self.token, self.position, self.place), columns, strict=True):
            own[: len(rows)] = column
        sampled = torch.tensor([list(sample_rows), list(sample_slots)], dtype=torch.int32)
        self.sample_rows[: len(sample_rows)], self.sample_slots[: len(sample_slots)] = sampled
        # in the places' order: which adapters share a product does not depend on the order of the rows
        used = sorted({place for place in places if place >= 0})
        self.listed[: 1 + len(used)] = torch.tensor([len(used), *used], dtype=torch.int32)


def _whole(size: int) -> int:
    return -(-size // 4) * 4  # int32: four of them are 16 bytes


@dataclass(frozen=True)
class DecodeStep:
    """A step that was asked for: the slots whose tokens it samples, and where they will be until `decoder.STAGES` - 1
    more are asked for. `_event` is a torch.cuda.Event (None on the CPU), whose methods torch does not annotate."""

    slots: list[int]
    _out: torch.Tensor
    _event: Any

    def tokens(self) -> list[int]:
        """One for each of `slots`; `sampling_kernel.INACTIVE` for a slot that had ended. Waits for the GPU."""
        if self._event is not None:
            # Of this step alone: the next one may be at work already, and is not waited for.
            self._event.synchronize()
        return [int(t) for t in self._out[: len(self.slots)].tolist()]


def make_slot_state(slots: int, capacity: int, V: int, M: int, device: torch.device) -> SlotState:
    next_token, length, written, limit, done = (torch.zeros(slots, dtype=torch.int32, device=device) for _ in range(5))
    return SlotState(
        next_token,
        length,
        written,
        limit,
        done,
        sampling_params=torch.zeros(slots, 4, dtype=torch.float32, device=device),
        uniforms=torch.zeros(
            slots, capacity + 1, dtype=torch.float32, device=device
        ),  # one for the opening, one for each token
        # a byte a token, not a bit: 64 slots of BLOOM's vocabulary are 16 MB, and a store needs no atomics
        seen=torch.zeros(slots, V, dtype=torch.uint8, device=device),
        position=torch.zeros(M, dtype=torch.int32, device=device),
    )
