"""The room for speed: one file a kernel, each with a plain twin. `README.md` has a line on each.

Of ours only the plain twins are known here, and only `fast_paths.py` knows this room: everything works without it, with
its paths off (`--fast off`) and with the folder gone."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from typing import Any

import torch

from florilegium.fast import flex_attention as attention
from florilegium.fast import frozen_linear
from florilegium.fast import support as obstacles
from florilegium.fast.head_loss import head_losses
from florilegium.fast.training.cuda_graph import Replay

NAMES = ("fused-blocks", "flex-attention", "quantized-linear", "chunked-loss", "fast-decode")


def choose(request: str, device: torch.device, bits: int) -> tuple[tuple[str, ...], str]:
    """The fast paths for `request` ('auto', 'off' or names with commas) and, if a named one cannot run here, the
    reason.

    `auto` leaves out what cannot run; a name that cannot run comes back with its reason and is not silently dropped.
    """
    obstacles = {
        "fused-blocks": "its kernels are for CUDA"
        if device.type != "cuda"
        else ""
        if bits in (4, 8)
        else "it is for a base in 8 or 4 bits",
        "fast-decode": "its kernels are for CUDA"
        if device.type != "cuda"
        else "it computes in bfloat16"
        if bits == 32
        else "",
        "flex-attention": attention.flex_obstacle(device, attention.FLEX_BLOCK),
        "quantized-linear": "" if bits in (4, 8) else f"the base is held in {bits} bits, and it is for 8 and 4",
        "chunked-loss": "",
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
    model.__dict__["fast_decode"] = "fast-decode" in names
    if "quantized-linear" in names:
        frozen_linear.install(model)
    return model


def trunk_obstacle(bloom: Any, device: torch.device, compute: torch.dtype) -> str:
    """Why `block` cannot run on this model, or an empty string."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    from florilegium.fast.training.block_stack import obstacle

    return obstacle(bloom, device, compute)


def reads_codes(bloom: Any) -> bool:
    """Whether `block` reads this model's weights as they are stored, and needs no room for a wide one."""
    return all(obstacles.reads_codes(layer) for layer in bloom.h)


def say_products(bloom: Any) -> str:
    """The same for the run's first lines, and what is missing where something is."""
    return obstacles.say_products(bloom)


def install_trunk(
    bloom: Any, full: int, middle: int, copies: int, dtype: torch.dtype = torch.bfloat16, lengths: Sequence[int] = ()
) -> None:
    """Gives a BloomModel the blocks by hand (`block_stack.py`). The numbers are `trunk.Plan`'s; `lengths` are tokens of
    batches to come."""
    from florilegium.fast.training.block_stack import Plan, Trunk

    bloom.__dict__["trunk"] = Trunk(bloom, Plan(full, middle, copies), dtype, lengths)


def leave_compiling() -> None:
    """Kernels that nobody has begun to compile are compiled when they are needed."""
    module = sys.modules.get("florilegium.fast.hopper.int8_matmul")
    if module is not None:
        module.leave_compiling()


def decode_obstacle(bloom: Any, device: torch.device, compute: torch.dtype) -> str:
    """Why `decode` cannot run on this model, or an empty string."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    from florilegium.fast.decoding.weights import obstacle

    return obstacle(bloom, device, compute)


def decoder(bloom: Any, head_VW: torch.Tensor, **sizes: Any) -> Any:
    """A `decode.Decoder` for a model without `decode_obstacle`."""
    from florilegium.fast.decoding.decoder import Decoder

    return Decoder(bloom, head_VW, **sizes)


__all__ = [
    "NAMES",
    "Replay",
    "attention",
    "choose",
    "decode_obstacle",
    "decoder",
    "frozen_linear",
    "head_losses",
    "install",
    "install_trunk",
    "leave_compiling",
    "reads_codes",
    "say_products",
    "trunk_obstacle",
]
