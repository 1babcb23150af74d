"""The adapters of one base, side by side, as the decoder reads them: in 16 bits, as each is when it is added.

Every linear has two tensors for all of them, A [P, R, K] and B [P, N, R] with P places; a row of a step says by its place
which is its own, and reads no other. So a hundred adapters cost the bytes of a hundred, and no kernel more. Places and
rank grow when an adapter wants them to: the tensors are then others, and recorded graphs must be made anew.

    pool = AdapterPool(blocks, torch.bfloat16, places=4)
    place = pool.add(bloom)           a BloomModel with PEFT's LoRA on it, over the same weights
    pool.remove(place)                when no row wants it any more"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from florilegium.fast.decoding.block_kernel import LoraInput
from florilegium.fast.decoding.matmul_kernel import LoraOperands
from florilegium.fast.decoding.state import StepInputs
from florilegium.fast.decoding.stored_weight import StoredWeight
from florilegium.fast.decoding.weights import DecoderBlock
from florilegium.fast.modules import Bloom, Lora, lora_of, wrapped_linears
from florilegium.fast.unpack_kernel import in_stored_order

NONE = -1  # the place of a row without an adapter


@dataclass(frozen=True)
class DecoderLora:
    """Of one linear. R is the largest rank rounded up to a power of two from 16. A norm's program reads A as it is; else
    its columns lie as those of the input that it multiplies (`StoredWeight.column_order`). B holds the adapter's scaling,
    and for `dense` and `down` what undoes the int8 scale that the next norm applies."""

    a_PRK: torch.Tensor
    b_PNR: torch.Tensor


@dataclass
class _Linear:
    """`after_norm`: it reads a norm's output; else its sums go to the next norm without scale."""

    weight: StoredWeight
    after_norm: bool
    lora: DecoderLora | None = None

    @property
    def rank(self) -> int:
        return 0 if self.lora is None else self.lora.a_PRK.shape[1]

    def make_room(self, places: int, R: int, dtype: torch.dtype) -> None:
        """Zeros for what is not there: they add nothing, and a power of two needs no mask."""
        device, old = self.weight.stored.device, self.lora
        a_PRK = torch.zeros(places, R, self.weight.K, dtype=dtype, device=device)
        b_PNR = torch.zeros(places, self.weight.N, R, dtype=dtype, device=device)
        if old is not None:
            P, has, _ = old.a_PRK.shape
            a_PRK[:P, :has], b_PNR[:P, :, :has] = old.a_PRK, old.b_PNR
        self.lora = DecoderLora(a_PRK, b_PNR)

    def put(self, place: int, lora: Lora | None) -> None:
        if self.lora is None:  # no adapter so far has this linear
            return
        # an earlier adapter may have had a larger rank, or this linear where the new one has not
        a_RK, b_NR = self.lora.a_PRK[place].zero_(), self.lora.b_PNR[place].zero_()
        if lora is None:
            return
        rank = len(lora.A_RK)
        A, B = lora.A_RK.detach(), lora.B_NR.detach() * lora.scaling
        a_RK[:rank].copy_(A if self.after_norm else in_stored_order(A, self.weight.column_order))
        # a row of zeros has the scale 0: whatever is added to its sum is lost, as it is for the base
        scale_N = torch.where(self.weight.scale_N == 0, 1.0, self.weight.scale_N)
        b_NR[:, :rank].copy_(B if self.after_norm else B / scale_N[:, None])
        # an infinity times the zero that stands for another's row would be no number
        most = torch.finfo(b_NR.dtype).max
        b_NR.clamp_(-most, most)


class AdapterPool:
    def __init__(self, blocks: Sequence[DecoderBlock], dtype: torch.dtype, places: int) -> None:
        self.dtype, self.places, self.tensors_made = dtype, places, 0
        self.free = list(range(places))
        self.linears = [
            _Linear(weight, after_norm)
            for block in blocks
            for weight, after_norm in ((block.qkv, True), (block.dense, False), (block.up, True), (block.down, False))
        ]

    @property
    def rank(self) -> int:
        return max(1, *(linear.rank for linear in self.linears))

    def of_block(self, index: int) -> tuple[DecoderLora | None, ...]:
        """Of its qkv, dense, up and down."""
        return tuple(linear.lora for linear in self.linears[4 * index : 4 * index + 4])

    def add(self, bloom: Bloom) -> int:
        """The adapter's place. Raises OutOfMemoryError, and then all are as they were."""
        loras = [lora_of(module) for layer in bloom.h for module in wrapped_linears(layer)]
        self._make_room([padded_rank(lora) if lora else 0 for lora in loras])
        place = self.free.pop(0)
        try:
            for linear, lora in zip(self.linears, loras, strict=True):
                linear.put(place, lora)
        except BaseException:  # no memory for a copy: what was put there is written over by the next
            self.free.insert(0, place)
            raise
        return place

    def remove(self, place: int) -> None:
        self.free.append(place)  # its numbers stay until another takes the place: no row asks for them

    def _make_room(self, ranks: Sequence[int]) -> None:
        """For one more of these ranks."""
        # twice as many, so that a hundred adapters that come one by one are copied seven times and not a hundred
        places = self.places if self.free else 2 * self.places
        for linear, rank in zip(self.linears, ranks, strict=True):
            R = max(rank, linear.rank)
            if R and (linear.rank < R or places > self.places):
                self.tensors_made += 1
                linear.make_room(places, R, self.dtype)
        # last: where memory ran out above, the next adapter tries again
        self.free += range(self.places, places)
        self.places = places


def lora_operands(
    lora: DecoderLora | None, inputs: StepInputs, x_at: torch.Tensor
) -> tuple[LoraInput, LoraOperands] | tuple[None, None]:
    """What makes x A^T of a linear, and what reads it. One buffer `x_at` [M padded, the largest rank] for all, since
    each is read before the next is made."""
    if lora is None:
        return None, None
    x_at_MR = x_at.view(-1)[: len(x_at) * lora.a_PRK.shape[1]].view(len(x_at), -1)
    made = LoraInput(lora.a_PRK, inputs.place, x_at_MR)
    return made, LoraOperands(lora.b_PNR, x_at_MR, inputs.place, inputs.listed)


def padded_rank(lora: Lora) -> int:
    return max(16, 1 << (lora.A_RK.shape[0] - 1).bit_length())
