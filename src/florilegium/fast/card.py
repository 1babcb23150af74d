"""What a CUDA card can do, as the kernels ask: its compute capability, and the shared memory of one block of threads.

    card_of(device).capability          (8, 6) of an RTX 3090
    with acting_as(RTX_3090): ...       the plan of that card on the one at hand: no instruction of a newer one, and no
                                        tile that would not fit there

`acting_as` is for tests and benches, so that what most people own is run where only a larger card is to be had. It is a
switch of this process and no setting: a run says what it ran on."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

BFLOAT16 = (8, 0)  # from Ampere on; torch's is_bf16_supported() says yes of older cards too, which emulate it
ROOMY = 128 * 1024  # bytes of shared memory: an A100 has 163 KiB for a block, an H100 227, consumer cards 99


@dataclass(frozen=True)
class Card:
    capability: tuple[int, int]
    shared_bytes: int

    @property
    def is_roomy(self) -> bool:
        return self.shared_bytes > ROOMY

    @property
    def is_hopper(self) -> bool:
        # 9 exactly: wgmma is an instruction of sm_90a alone, and Blackwell (10, 12) has another in its place
        return self.capability[0] == 9 and torch.version.hip is None


T4 = Card((7, 5), 64 * 1024)
RTX_3090 = Card((8, 6), 99 * 1024)
RTX_4090 = Card((8, 9), 99 * 1024)
CARDS = {"T4": T4, "RTX 3090": RTX_3090, "RTX 4090": RTX_4090}

_instead: list[Card] = []


def card_of(device: torch.device) -> Card:
    """The CUDA card of `device`, or the one that it acts as."""
    return _instead[-1] if _instead else _real(device)


@functools.cache
def _real(device: torch.device) -> Card:
    properties: Any = torch.cuda.get_device_properties(device)
    shared = getattr(properties, "shared_memory_per_block_optin", 48 * 1024)
    return Card((properties.major, properties.minor), shared)


@contextlib.contextmanager
def acting_as(card: Card) -> Iterator[None]:
    """Inside, every CUDA device of this process is taken for `card`."""
    _instead.append(card)
    try:
        yield
    finally:
        _instead.pop()


def no_bfloat16(device: torch.device) -> str:
    """Why kernels that compute in bfloat16 cannot run there, or an empty string."""
    if device.type != "cuda" or not (_instead or torch.cuda.is_available()):
        return ""
    # of the card that it acts as, where a test or a bench says so
    major, minor = capability = card_of(device).capability
    if capability >= BFLOAT16:
        return ""
    return f"it computes in bfloat16, which a card of compute capability {major}.{minor} has not (8.0 and later have)"
