"""A model whose weights alone do not fit is refused before they are downloaded, by its config.json."""

from __future__ import annotations

from pathlib import Path

import torch

from florilegium.config import TrainConfig
from florilegium.errors import ResourceError
from florilegium.model.skeleton import read_skeleton
from florilegium.storage.platform import available_memory

GIB = 2**30


def refuse_too_large(config: TrainConfig, device: torch.device) -> None:
    """Raises ResourceError where the base cannot be held on `device`. A model on this disk is loaded and told by what
    happens then: nothing is to be downloaded in vain."""
    if config.model == "seedling" or Path(config.model).expanduser().exists():
        return
    room = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else available_memory()
    if room is None:
        return
    skeleton = read_skeleton(config)
    needed = skeleton.base_bytes(config.bits)
    if needed <= room:
        return
    fits = [bits for bits in (8, 4) if skeleton.base_bytes(bits) < 0.9 * room]
    raise ResourceError(
        f"{config.model} does not fit: its weights take {needed / GIB:.1f} GiB in {config.bits} bits, and there are "
        f"{room / GIB:.1f} GiB",
        f"Use --bits {fits[0]}" if fits else "Choose a smaller --model; `florilegium estimate` says what fits",
    )
