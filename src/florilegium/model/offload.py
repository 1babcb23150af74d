"""Whether the weights of a base's blocks lie in host memory (`fast/host_blocks.py`): where that was asked for, or where
the card has no room for them and the host has. Decided before a weight is read, by config.json alone."""

from __future__ import annotations

import torch

from florilegium.config import TrainConfig
from florilegium.errors import UsageError
from florilegium.model.families import family_of, packs
from florilegium.model.hub import config_folder, read_config
from florilegium.model.memory_plan import ModelShape, peak_bytes, without_blocks
from florilegium.model.model_config import model_config
from florilegium.model.skeleton import read_skeleton
from florilegium.storage.platform import available_memory

LEAST_TOKENS = 256  # of the smallest piece that is worth planning for
HOST_SHARE = 0.9  # of the host's free memory that may be pinned


def lies_in_host_memory(
    config: TrainConfig, device: torch.device, world: int, kernels: tuple[str, ...], elsewhere: int | None = None
) -> bool:
    """Whether the base is to be loaded that way by `world` processes with these kernels; `elsewhere`: the bytes that a
    run may take of a card in another machine, of whose main memory nothing is known. Raises UsageError where it was asked
    for and cannot be."""
    if config.memory not in ("auto", "offload"):
        return False
    reason = _unsupported_reason(config, device, world, kernels)
    if config.memory == "offload":
        if reason:
            raise UsageError(f"--memory offload: {reason}", "Leave --memory out, or use --memory lean")
        return True
    if reason or config.model == "seedling":
        return False
    return _is_needed(config, room_of(config) if elsewhere is None else elsewhere, elsewhere is None)


def room_of(config: TrainConfig) -> int:
    """What a run may take of this card before anything is on it, as its plan will reckon."""
    return int(config.gpu_memory_limit * 2**30) if config.gpu_memory_limit else int(torch.cuda.mem_get_info()[0] * 0.92)


def _unsupported_reason(config: TrainConfig, device: torch.device, world: int, kernels: tuple[str, ...]) -> str:
    if device.type != "cuda":
        return "it takes a CUDA card, whose memory it spares"
    if config.bits not in (8, 4) or "fused-blocks" not in kernels:
        return "it takes the fused blocks, on a base of 8 or 4 bits"
    if world > 1:
        return "it is for one process"
    values = read_config(config_folder(config.model, config.revision), config.model)
    return "" if packs(family_of(values.get("model_type"))) else "it is for BLOOM models"


def _is_needed(config: TrainConfig, room: int, is_here: bool) -> bool:
    if not _is_large(config, room):
        return False
    shape = read_skeleton(config).shape(config.bits, reads_int8=config.bits == 8)
    return shape is not None and offloading_helps(shape, config.bits, room, available_memory() if is_here else None)


def _is_large(config: TrainConfig, room: int) -> bool:
    """Whether the weights alone fill half of the room: of smaller models nothing more is asked."""
    values = model_config(read_config(config_folder(config.model, config.revision), config.model), config.model)
    blocks = 12 * values.hidden_size**2 * values.num_hidden_layers * config.bits // 8
    return bool(blocks + 2 * values.vocab_size * values.hidden_size > room // 2)


def offloading_helps(shape: ModelShape, bits: int, room: int, host_memory: int | None) -> bool:
    """Whether a model of this shape fits `room` bytes of a card so, and not otherwise."""
    elsewhere = without_blocks(shape, bits)
    least, spared = (peak_bytes(one, LEAST_TOKENS, 0, 0, 0) for one in (shape, elsewhere))
    in_host = shape.num_layers * elsewhere.host_block
    return spared <= room < least and (host_memory is None or in_host <= HOST_SHARE * host_memory)
