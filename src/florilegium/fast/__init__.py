"""The room for speed: one file a kernel, each with its plain twin. `install` is the door; `README.md` has a line on each.

Nothing outside this folder is imported here, and all else works with the folder's fast paths off (`--fast off`).
"""

from __future__ import annotations

from typing import Any

import torch

from florilegium.fast import attention, frozen_linear
from florilegium.fast.head_loss import head_losses, plain_head_losses

NAMES = ("attention", "linear", "loss")


def choose(request: str, device: torch.device, bits: int) -> tuple[tuple[str, ...], str]:
    """The fast paths for `request` ('auto', 'off' or names with commas) and, if a named one cannot run here, the reason.

    `auto` leaves out what cannot run; a name that cannot run comes back with its reason and is not silently dropped.
    """
    obstacles = {
        "attention": attention.flex_obstacle(device, attention.FLEX_BLOCK),
        "linear": "" if bits in (4, 8) else f"the base is held in {bits} bits, and it is for 8 and 4",
        "loss": "",
    }
    if request == "off":
        return (), ""
    if request == "auto":
        return tuple(name for name in NAMES if not obstacles[name]), ""
    names = tuple(name.strip() for name in request.split(",") if name.strip())
    for name in names:
        if name not in obstacles:
            return names, f"there is no fast path {name!r}; there are {', '.join(NAMES)}"
        if obstacles[name]:
            return names, f"the fast path {name!r} cannot run: {obstacles[name]}"
    return names, ""


def install(model: Any, names: tuple[str, ...]) -> Any:
    """Swaps the named fast paths into `model` in place and returns it. Takes off what is not named."""
    frozen_linear.remove(model)
    if "linear" in names:
        frozen_linear.install(model)
    return model


__all__ = ["NAMES", "attention", "choose", "frozen_linear", "head_losses", "install", "plain_head_losses"]
