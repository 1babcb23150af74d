"""What the GPU knows while it decodes: the state of every slot, the inputs of a step, and a step that was asked for
(`decoder.py`). It all lies there so that a step can be asked for before the tokens of the last one are known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

# Columns of `SlotState.sampling_params`; `sampling_kernel.py` reads them by the same names.
TEMPERATURE, TOP_P, TOP_K, PENALTY = range(4)


@dataclass(frozen=True)
class SlotState:
    """What the GPU knows of each slot, [slots] each: the token to read next and its position, tokens written and
    allowed, whether it has ended, whether LoRA is enabled for it; `sampling_params` [slots, 4], `uniforms` [slots,
    capacity + 1], `seen` [slots, V]. And of each row of the step under way its `position`."""

    next_token: torch.Tensor
    length: torch.Tensor
    written: torch.Tensor
    limit: torch.Tensor
    done: torch.Tensor
    lora_enabled: torch.Tensor
    sampling_params: torch.Tensor
    uniforms: torch.Tensor
    seen: torch.Tensor
    position: torch.Tensor


@dataclass(frozen=True)
class StepInputs:
    """Token, position and slot of each row, and the rows whose next token is wanted; views of one piece of memory, so
    that one copy brings all four."""

    memory: torch.Tensor
    token: torch.Tensor
    position: torch.Tensor
    slot: torch.Tensor
    sample_rows: torch.Tensor

    @classmethod
    def make(cls, M: int, Q: int, *, device: torch.device | None = None, pin_memory: bool = False) -> StepInputs:
        position, slot, sample_rows = input_offsets(M)
        # -1 is a row of no slot: what a step does not fill changes nothing
        memory = torch.full((sample_rows + Q,), -1, dtype=torch.int32, device=device, pin_memory=pin_memory)
        return cls(memory, memory[:M], memory[position : position + M], memory[slot : slot + M], memory[sample_rows:])


def input_offsets(M: int) -> tuple[int, int, int]:
    """Where in that memory positions, slots and sampled rows begin: at multiples of 16 bytes, or Triton would compile
    for each M anew."""
    each = -(-M // 4) * 4  # int32: four of them are 16 bytes
    return each, 2 * each, 3 * each


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
        lora_enabled=torch.ones(slots, device=device),
        sampling_params=torch.zeros(slots, 4, device=device),
        uniforms=torch.zeros(slots, capacity + 1, device=device),  # one for the opening, one for each token
        # a byte a token, not a bit: 64 slots of BLOOM's vocabulary are 16 MB, and a store needs no atomics
        seen=torch.zeros(slots, V, dtype=torch.uint8, device=device),
        position=torch.zeros(M, dtype=torch.int32, device=device),
    )
