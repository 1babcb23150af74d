"""Frozen blocks whose weights lie in host memory, for a card that is nearly large enough for its model.

    host memory, pinned     weights of block 0, 1, 2, ... (int8 or NF4; scales, norms and adapter stay on the card)
    card                    two slots, each as large as the weights of one block: the offloaded blocks take turns

While one block computes, a second stream copies the next one's weights into the other slot: forward the one after,
backward the one before, whose weights are still there where the order turns. A linear's parameter is a view of its slot
for good, so every kernel reads it as ever, by the same address, and the bits are those of a run without. In a recorded
step (`cuda_graph.py`) the copies are nodes of the graph; a pass begins by forgetting what the slots hold, so what was
recorded does not depend on what ran before it.

A module's own forward (evaluation, writing) is preceded by a hook on the first linear of its block that does the same.
On a CPU there is no second stream: each copy is made where it is asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from florilegium.fast.modules import FIRST_LINEAR

CHUNK = 1 << 28  # bytes of pinned memory at a time: a power of two, to which torch's allocator would round it up
ALIGNED = 256  # bytes: what the matrix unit's copies want of an address, and more
IN_TURN = "in_turn"  # a module's mark, in its __dict__: its weight is there only when its turn has come


@dataclass
class _HostWeight:
    """One linear's int8 or NF4 weight in host memory, as bytes; cut where a chunk ended."""

    module: nn.Module
    pieces: list[torch.Tensor]
    dtype: torch.dtype
    shape: torch.Size

    @property
    def size(self) -> int:
        return sum(map(len, self.pieces))

    def show(self, memory: torch.Tensor) -> None:
        """Makes the module read its weight from `memory`, uint8 on the device."""
        weight: Any = self.module.weight
        # the parameter stays the same object: PEFT, the block stack and bitsandbytes hold it by reference
        weight.data = memory[: self.size].view(self.dtype).view(self.shape)
        # bitsandbytes reads an int8 weight from the parameter, and after its own first forward from the module's state
        owners: list[Any] = [weight, getattr(self.module, "state", None)]
        for owner in owners:
            if getattr(owner, "CB", None) is not None:
                owner.CB = weight.data

    def copy_to(self, memory: torch.Tensor) -> None:
        start = 0
        for piece in self.pieces:
            # from pinned memory: neither this thread nor the compute's stream waits
            memory[start : start + len(piece)].copy_(piece, non_blocking=True)
            start += len(piece)


class HostBlocks:
    """The blocks that were given to `take`, by their numbers in the model."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.blocks: dict[int, dict[str, _HostWeight]] = {}
        self.order: list[int] = []  # numbers of the blocks that are streamed, ascending
        self.slots: tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]] = ({}, {})
        self.holds: list[int | None] = [None, None]  # which place of `order` a slot holds
        self.copied: list[Any] = [None, None]  # the event of its copy, until somebody has waited for it
        self.stream: Any = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._chunk, self._used = torch.empty(0, dtype=torch.uint8), 0
        self._hooks: dict[int, Any] = {}

    def __len__(self) -> int:
        """Blocks that are streamed."""
        return len(self.order)

    @property
    def block_bytes(self) -> int:
        """The weights of one block."""
        return sum(held.size for held in next(iter(self.blocks.values())).values()) if self.blocks else 0

    def take(self, number: int, kind: str, module: nn.Module) -> None:
        """The weight of `module`, the linear `kind` of block `number`, into host memory. What it reads from now on is a
        slot."""
        weight: Any = module.weight
        flat = weight.data.contiguous().view(-1).view(torch.uint8)
        held = _HostWeight(module, self._room(len(flat)), weight.dtype, weight.shape)
        start = 0
        # waited for: the weight's own memory on the card is free when this returns, and the next one may take it
        for piece in held.pieces:
            piece.copy_(flat[start : start + len(piece)])
            start += len(piece)
        for slot in self.slots:
            # all blocks of a model have the same shapes, so the first one decides how large a slot is
            if kind not in slot:
                slot[kind] = torch.zeros(-(-len(flat) // ALIGNED) * ALIGNED, dtype=torch.uint8, device=self.device)
        self.blocks.setdefault(number, {})[kind] = held
        self.order = sorted(self.blocks)
        # which of the two is settled by `keep_on_device`, when it is known which blocks take turns
        held.show(self.slots[number % 2][kind])
        module.__dict__[IN_TURN] = True
        if kind == FIRST_LINEAR:
            self._hooks[number] = module.register_forward_pre_hook(self._before(number))

    def _room(self, size: int) -> list[torch.Tensor]:
        pieces = []
        while size:
            # of a weight that does not fit what is left of a chunk, the rest begins the next one: none of it is wasted
            if self._used == len(self._chunk):
                self._chunk = torch.empty(CHUNK, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
                self._used = 0
            end = min(self._used + size, len(self._chunk))
            pieces.append(self._chunk[self._used : end])
            size, self._used = size - (end - self._used), end
        return pieces

    def keep_on_device(self, count: int) -> None:
        """Brings `count` blocks back for good, spread evenly: a block that is here is time for a copy to arrive in."""
        for number in evenly(self.order, count):
            self._hooks.pop(number).remove()
            for held in self.blocks.pop(number).values():
                memory = torch.empty(held.size, dtype=torch.uint8, device=self.device)
                held.copy_to(memory)
                held.show(memory)
                held.module.__dict__.pop(IN_TURN)
        if self.device.type == "cuda":
            # a chunk may be given back to the system once no weight lies in it any more
            torch.cuda.current_stream(self.device).synchronize()
        self.order = sorted(self.blocks)
        # neighbours in the order, however far apart in the model, lie in different slots
        for place, number in enumerate(self.order):
            for kind, held in self.blocks[number].items():
                held.show(self.slots[place % 2][kind])
        if not self.order:
            self.slots = ({}, {})
        self.holds, self.copied = [None, None], [None, None]

    def begin(self) -> None:
        """A pass begins: the first two blocks are copied, whatever the slots hold."""
        self.holds, self.copied = [None, None], [None, None]
        for place in range(min(2, len(self.order))):
            self._copy(place)

    @contextlib.contextmanager
    def rejoined(self) -> Iterator[None]:
        """Inside, a pass: where it breaks off, memory having run out amid a recording say, no copy stays under way on a
        stream that nobody waits for, in which CUDA would end the recording with an error of its own."""
        try:
            yield
        except BaseException:
            if self.stream is not None:
                torch.cuda.current_stream(self.device).wait_stream(self.stream)
            # events of a recording that failed are nothing to wait for
            self.holds, self.copied = [None, None], [None, None]
            raise

    def need(self, number: int, *, backward: bool = False) -> None:
        """The weights of block `number` are in its slot for what follows on this stream. The next one's are copied
        meanwhile; a block that is on the card asks for nothing."""
        if number not in self.blocks:
            return
        place = self.order.index(number)
        if self.holds[place % 2] != place:
            self._copy(place)
        if self.copied[place % 2] is not None:
            torch.cuda.current_stream(self.device).wait_event(self.copied[place % 2])
            self.copied[place % 2] = None
        # the slot of the block that ran before this one: nobody reads it any more
        then = place - 1 if backward else place + 1
        if 0 <= then < len(self.order) and self.holds[then % 2] != then:
            self._copy(then)

    def _copy(self, place: int) -> None:
        slot = self.slots[place % 2]
        self.holds[place % 2] = place
        if self.stream is None:
            self._copy_block(place, slot)
            return
        # whoever read the slot before has been launched on this stream already
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            self._copy_block(place, slot)
            self.copied[place % 2] = self.stream.record_event()

    def _copy_block(self, place: int, slot: dict[str, torch.Tensor]) -> None:
        for kind, held in self.blocks[self.order[place]].items():
            held.copy_to(slot[kind])

    def _before(self, number: int) -> Callable[..., None]:
        def hook(*_: object) -> None:
            # Transformers' forward and ours may take turns: what the slots hold is not relied on
            if number == self.order[0]:
                self.begin()
            self.need(number)

        return hook

    def link_rate(self) -> float:
        """Bytes a second from host memory into a slot, the best of three copies of a block; 0 without a card."""
        if self.stream is None or not self.order:
            return 0.0
        milliseconds = []
        for _ in range(3):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            begin.record()
            self._copy_block(0, self.slots[0])
            end.record()
            end.synchronize()
            # the first copy of a process is slower, and another program may use the link
            milliseconds.append(float(begin.elapsed_time(end)))
        return 1000 * self.block_bytes / min(milliseconds)


def evenly(numbers: Sequence[int], count: int) -> list[int]:
    """`count` of these numbers, spread evenly, the last of each stretch: the first block is asked for at once."""
    return [numbers[(i + 1) * len(numbers) // count - 1] for i in range(count)] if count else []
