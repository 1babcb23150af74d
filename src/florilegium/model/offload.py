"""Whether the weights of a base's blocks lie in host memory (`fast/host_blocks.py`): where that was asked for, or where
the card has no room for them and the host has. Decided before a weight is read: by config.json, by the settings, and by
the longest row, which is never cut."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from florilegium.config import TrainConfig
from florilegium.errors import UsageError
from florilegium.model.card_memory import this_card
from florilegium.model.families import family_of, packs
from florilegium.model.fused_model import fused_unsupported
from florilegium.model.gpus import Gpu
from florilegium.model.hub import config_folder, read_config
from florilegium.model.memory_plan import BLOCK_ROWS, GIB, ModelShape, peak_bytes, without_blocks
from florilegium.model.model_config import model_config
from florilegium.model.skeleton import Skeleton, read_skeleton
from florilegium.storage.platform import available_memory

SHORTEST = 64  # tokens of the longest row, while the rows are not known
HOST_SHARE = 0.9  # of the host's free memory that may be pinned


@dataclass(frozen=True)
class Placement:
    """Whether the blocks lie in host memory; else the bytes that the run needs on the card at least. `room`: those that it
    has there; 0: nothing was asked, since the base is small or not for `--memory auto` to place."""

    offload: bool
    needed: int = 0
    room: int = 0
    reason: str = ""  # why the blocks cannot lie in host memory

    @property
    def fits(self) -> bool:
        return self.offload or self.needed <= self.room


def check_offload(config: TrainConfig, device: torch.device, world: int, kernels: tuple[str, ...]) -> None:
    """Raises UsageError for a `--memory offload` that cannot be."""
    if config.memory != "offload":
        return
    if reason := _unsupported(config, read_skeleton(config), device, world, kernels):
        raise UsageError(f"--memory offload: {reason}", "Leave --memory out, or use --memory lean")


def place_blocks(
    config: TrainConfig,
    device: torch.device,
    world: int,
    kernels: tuple[str, ...],
    longest: int = SHORTEST,
    elsewhere: Gpu | None = None,
) -> Placement:
    """Where the blocks lie for `world` processes with these kernels, and a longest row of so many tokens; `elsewhere`: a
    card in another machine, of whose main memory nothing is known."""
    if config.memory != "auto" or device.type != "cuda" or config.model == "seedling":
        return Placement(config.memory == "offload")
    card = elsewhere or this_card()
    room = card.budget_within(config.gpu_memory_limit)
    if not _is_large(config, room):
        return Placement(False)
    skeleton = read_skeleton(config)
    if reason := _unsupported(
        config, skeleton, device, world, kernels
    ):  # what else a run without the fused blocks needs is only estimated
        return Placement(False, skeleton.base_bytes(config.bits), room, reason)
    shape = skeleton.shape(config.bits, reads_int8=config.bits == 8 and card.is_hopper)
    assert shape is not None, "the fused blocks take it, so its family packs"
    host = available_memory() if elsewhere is None else None
    if offloading_helps(shape, config.bits, room, host, longest):
        return Placement(True, room=room)
    return Placement(
        False, peak_bytes(shape, BLOCK_ROWS.round_up(longest), 0, 0, 0), room, _no_room(shape, config, host)
    )


def offloading_helps(shape: ModelShape, bits: int, room: int, host_memory: int | None, longest: int = SHORTEST) -> bool:
    """Whether a model of this shape fits `room` bytes of a card so, and not otherwise."""
    elsewhere, tokens = without_blocks(shape, bits), BLOCK_ROWS.round_up(longest)
    least, spared = (peak_bytes(one, tokens, 0, 0, 0) for one in (shape, elsewhere))
    in_host = shape.num_layers * elsewhere.host_block
    return spared <= room < least and (host_memory is None or in_host <= HOST_SHARE * host_memory)


def _unsupported(
    config: TrainConfig, skeleton: Skeleton, device: torch.device, world: int, kernels: tuple[str, ...]
) -> str:
    if device.type != "cuda":
        return "it requires a CUDA GPU"
    if reason := fused_unsupported(skeleton, config):
        return reason
    if "fused-blocks" not in kernels:
        return "it requires the fused-blocks kernel, which does not run here"
    return "it is for one process" if world > 1 else ""


def _no_room(shape: ModelShape, config: TrainConfig, host: int | None) -> str:
    """Of a base that fits neither way, what is missing for the blocks to lie in host memory."""
    in_host = shape.num_layers * without_blocks(shape, config.bits).host_block
    if host is None or in_host <= HOST_SHARE * host:
        return "what is left of it on the card does not fit either"
    return f"they take {in_host / GIB:.1f} GiB of main memory, of which {host / GIB:.1f} GiB are free"


def _is_large(config: TrainConfig, room: int) -> bool:
    """Whether the weights alone fill half of the room: of smaller models nothing more is asked."""
    values = read_config(config_folder(config.model, config.revision), config.model)
    if not packs(family_of(values.get("model_type"))):
        return False
    sizes = model_config(values, config.model)
    blocks = 12 * sizes.hidden_size**2 * sizes.num_hidden_layers * config.bits // 8
    return bool(blocks + 2 * sizes.vocab_size * sizes.hidden_size > room // 2)
