"""Which fast paths run: the one file that knows the room for speed (`fast/`). Without that room everything runs by the
plain twins.

A name that was asked for and cannot run comes with the reason, so that nobody gets the slow way in silence; `auto`
leaves it out."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from florilegium import reference as plain

HAS_FAST = importlib.util.find_spec("florilegium.fast") is not None
NONE_HERE = "this installation has no fast paths"

if HAS_FAST:
    from florilegium import fast

Losses = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def choose(request: str, device: torch.device, bits: int) -> tuple[tuple[str, ...], str]:
    """The fast paths for `request` ('auto', 'off' or names with commas) and, if a named one cannot run here, the
    reason."""
    if HAS_FAST:
        return fast.choose(request, device, bits)
    return (), "" if request in ("auto", "off") else NONE_HERE


def install(model: Any, names: tuple[str, ...]) -> None:
    """Swaps the named paths into `model` in place, and takes off what is not named."""
    if HAS_FAST:
        fast.install(model, names)


def obstacle(name: str, bloom: Any, device: torch.device, compute: torch.dtype) -> str:
    """Why 'block' or 'decode' cannot run on this BloomModel, or an empty string."""
    if not HAS_FAST:
        return NONE_HERE
    return {"fused-blocks": fast.trunk_obstacle, "fast-decode": fast.decode_obstacle}[name](bloom, device, compute)


def losses(names: tuple[str, ...]) -> Losses:
    return fast.head_losses if "chunked-loss" in names else plain.plain_head_losses


def attention(
    names: tuple[str, ...], document_BT: torch.Tensor, slopes_H: torch.Tensor, dtype: torch.dtype
) -> plain.Attend:
    """Attention inside the documents of a batch. A row that flex_attention cannot take goes the plain way: the names
    say what may run."""
    device, num_tokens = document_BT.device, document_BT.shape[1]
    if "flex-attention" in names and not fast.attention.flex_obstacle(device, num_tokens):
        return fast.attention.flex(document_BT, slopes_H, dtype)
    return plain.plain(document_BT, slopes_H, dtype)


def reads_codes(bloom: Any) -> bool:
    """Whether `block` multiplies by this BloomModel's weights as they are stored, and needs no room for a wide one."""
    return fast.reads_codes(bloom)


def say_products(bloom: Any) -> str:
    """The same for the run's first lines, and what is missing where something is; an empty string where there is
    nothing to say."""
    return fast.say_products(bloom)


def install_trunk(bloom: Any, full: int, middle: int, copies: int, lengths: Sequence[int] = ()) -> None:
    """Gives a BloomModel the blocks by hand. The numbers are those of `block_stack.py`'s Plan; `lengths` are tokens of
    batches that will come, whose kernels are compiled ahead (`compiling_ahead`)."""
    fast.install_trunk(bloom, full, middle, copies, lengths=lengths)


@contextlib.contextmanager
def compiling_ahead() -> Iterator[None]:
    """Kernels that are not begun at its end are left: a run that ends early does not wait for them."""
    try:
        yield
    finally:
        if HAS_FAST:
            fast.leave_compiling()


def replay(function: Callable[[dict[str, torch.Tensor]], torch.Tensor], updates: Sequence[torch.Tensor]) -> Any:
    return fast.Replay(function, updates)


def decoder(bloom: Any, head_VW: torch.Tensor, **sizes: Any) -> Any:
    """A `fast.decode.Decoder`, for a model without an obstacle."""
    return fast.decoder(bloom, head_VW, **sizes)


def dequantised_once(model: Any, dtype: torch.dtype) -> contextlib.AbstractContextManager[None]:
    """Inside, quantised linears multiply by a copy of their weights that is made once, where memory allows."""
    return fast.frozen_linear.dequantised_once(model, dtype) if HAS_FAST else contextlib.nullcontext()
