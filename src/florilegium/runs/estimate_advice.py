"""What to do about a run that does not fit: bits and a memory plan that would, or the smallest card."""

from __future__ import annotations

import math
from collections.abc import Sequence

from florilegium.config import TrainConfig
from florilegium.errors import ResourceError
from florilegium.model.card_memory import this_card
from florilegium.model.gpus import GIB, Gpu, smallest_card
from florilegium.model.offload import HOST_SHARE, Placement
from florilegium.model.skeleton import read_skeleton
from florilegium.runs.estimate_memory import Option, other_options
from florilegium.storage.platform import available_memory

FUSED_FROM = (8, 0)  # compute capability of the cards that can have the blocks in main memory


def refuse_what_fits_nowhere(config: TrainConfig, placement: Placement, longest: int) -> None:
    """Raises ResourceError, before a weight is read, where `placement` found no place for the base and a row of `longest`
    tokens; with what would fit."""
    if placement.fits:
        return
    lacks, host = placement.needed - placement.room, available_memory()
    options = [
        option
        for option in other_options(read_skeleton(config), config, this_card(), [longest], longest, ())
        if option.streamed is None or host is None or option.streamed.host_bytes <= HOST_SHARE * host
    ]
    raise ResourceError(
        f"{config.model} does not fit: it needs {gibibytes(placement.needed)} at least, {gibibytes(lacks)} more than the "
        f"{gibibytes(placement.room)} of this card that a run may take; its blocks cannot lie in main memory either: "
        f"{placement.reason}",
        what_would_fit(options, placement.room, config.gpu_memory_limit, this_card()),
    )


def what_would_fit(options: Sequence[Option], room: int, limit: float | None = None, card: Gpu | None = None) -> str:
    """Bits and memory plan that fit `room` bytes here, or the smallest card that would do. `limit`: the room is less than
    `card` has, by `--gpu-memory-limit`."""
    for option in sorted(options, key=lambda option: -option.needed):
        if option.needed <= room:
            return f"Use --bits {option.bits} --memory {option.memory}, which needs {needed_text(option)}"
    option = min((option for option in options if option.streamed is None), key=lambda option: option.needed)
    choice = f"--bits {option.bits} --memory {option.memory}"
    if limit and card is not None and option.needed <= card.budget:
        return f"Raise --gpu-memory-limit to {math.ceil(10 * option.needed / GIB) / 10:g}, with {choice}"
    larger = smallest_card(option.needed)
    if larger is None:
        return f"Choose a smaller --model: no single card holds the least that would do, {gibibytes(option.needed)}"
    return (
        f"Choose a smaller --model, or a card of {larger.gigabytes} GB ({larger.name}) with {choice}"
        f"{_smaller_card(options, larger)}"
    )


def _smaller_card(options: Sequence[Option], than: Gpu) -> str:
    """The card that would do with the blocks in main memory, where that is a choice and saves something."""
    option = min((option for option in options if option.streamed), key=lambda o: o.needed, default=None)
    card = None if option is None else smallest_card(option.needed, FUSED_FROM)
    if option is None or option.streamed is None or card is None or card.memory >= than.memory:
        return ""
    return (
        f", or one of {card.gigabytes} GB ({card.name}) with --bits {option.bits} --memory offload and "
        f"{gibibytes(option.streamed.host_bytes)} of main memory"
    )


def needed_text(option: Option) -> str:
    """What it takes of the card, and of the machine."""
    if option.streamed is None:
        return gibibytes(option.needed)
    rate = option.streamed.tokens_per_second
    allowed = f" (at most {rate:,.0f} tokens/s)" if rate else ""
    return f"{gibibytes(option.needed)} and {gibibytes(option.streamed.host_bytes)} of main memory{allowed}"


def gibibytes(size: int) -> str:
    """In the units that memory is told in: of a small model 0.0 GiB would say nothing."""
    return f"{size / GIB:.1f} GiB" if size >= 0.1 * GIB else f"{size / 2**20:.0f} MiB"
