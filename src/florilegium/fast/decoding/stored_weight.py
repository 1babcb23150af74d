"""A frozen linear as the decoder reads it, into how many parts its sum is cut, and the tiles in which it is multiplied
(`matmul_kernel.py`).

Shapes: M rows, N outputs, K inputs; a tile has BM rows, BN outputs, BK inputs a step, STAGES of them under way."""

# ruff: noqa: N803

from __future__ import annotations

from dataclasses import dataclass

import torch

from florilegium.fast.card import card_of
from florilegium.fast.unpack_kernel import BYTE_ORDER, NATURAL_ORDER, PAIR_ORDER


@dataclass(frozen=True)
class StoredWeight:
    """A frozen linear as it is stored. bits: 8, 4 or 16; `nf4` is the table [16] and the block scales [K / 64, N],
    float32; `split`: in how many parts its sum is cut."""

    stored: torch.Tensor
    scale_N: torch.Tensor
    bias_N: torch.Tensor
    N: int
    K: int
    bits: int
    nf4: tuple[torch.Tensor, torch.Tensor]
    split: int

    @property
    def column_order(self) -> int:
        """The order in which it wants the columns of x (`unpack_kernel.mma_column_order`)."""
        return {4: PAIR_ORDER, 8: BYTE_ORDER, 16: NATURAL_ORDER}[self.bits]


def split_of(N: int, K: int) -> int:
    """Into how many parts K is cut so that all multiprocessors have work: the weight's own, never the batch's."""
    split = 1
    # 16,384 outputs are 256 tiles of 64, about two for each multiprocessor
    while N * split < 16384 and split < 8 and K % (split * 2 * 128) == 0:
        split *= 2
    return split


def padded(M: int) -> tuple[int, int]:
    """Rows of a tile for M rows, and M rounded up to whole tiles: what a buffer that the kernel reads must have."""
    BM = 16 if M <= 16 else 32 if M <= 32 else 64 if M <= 64 else 128
    return BM, -(-M // BM) * BM


def tile(M: int, K: int, split: int, bits: int, *, roomy: bool) -> dict[str, int]:
    """The tile for M rows. What is fastest for int8 and 16 bits was measured (`bench/generate/steps.py --tiles`).
    `roomy`: the multiprocessor has the shared memory of an A100 or H100; an RTX 3090's or 4090's holds a stage less.

    Always 4 warps. With 8, two of Hopper's groups, Triton 3.6 makes a program that sums int8 wrongly as soon as a
    multiprocessor runs two of them (seen on an H200; docs/dev-log.md)."""
    BM = padded(M)[0]
    fixed = {"BM": BM, "BN": 64, "num_warps": 4}
    if BM == 128 and bits != 4:
        long = bits == 8 and roomy and K % (split * 128) == 0
        return fixed | {"BK": 128 if long else 64, "STAGES": 3 if long or not roomy else 4}
    # whole steps alone: the kernel's loop has no mask along K
    if bits == 4:  # a step has one block scale for each output
        return fixed | {"BK": 64, "STAGES": 6 - 2 * (not roomy)}
    widest = 256 if bits == 8 and BM <= 32 else 128
    BK = next(b for b in (widest, 128, 64) if K % (split * b) == 0)
    return fixed | {"BK": BK, "STAGES": (3 if bits == 16 and BM == 64 else 4) - (not roomy)}


def is_roomy(device: torch.device) -> bool:
    """Whether `tile` may take what an A100 or H100 has."""
    return device.type != "cuda" or card_of(device).is_roomy
