"""A gated MLP, down(act(gate(x)) * up(x)), with its middle as one function (`parts.py`).

A module is taken for one by its three linears and by what it computes of a few numbers; its linears are called as they
are, with whatever adapter is on them."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import nn

from florilegium.fast.layers.packed_rows import rows_of
from florilegium.fast.layers.parts import GELU_TANH, SILU, LayerParts

LINEARS = ("gate_proj", "up_proj", "down_proj")


class GatedMlp(Protocol):
    """What is relied on of a family's own class."""

    gate_proj: Callable[[torch.Tensor], torch.Tensor]
    up_proj: Callable[[torch.Tensor], torch.Tensor]
    down_proj: Callable[[torch.Tensor], torch.Tensor]
    act_fn: Callable[[torch.Tensor], torch.Tensor]


def install(module: nn.Module, act: int, parts: LayerParts) -> None:
    """Gives the MLP the fused forward for packed rows."""
    plain = module.forward

    def forward(self: GatedMlp, x: torch.Tensor) -> torch.Tensor:
        # a text being written, or some of a mixture's tokens: as Transformers has it
        if rows_of(x) is None:
            return cast(torch.Tensor, plain(x))
        return self.down_proj(parts.gate(self.gate_proj(x), self.up_proj(x), act))

    module.forward = MethodType(forward, module)  # of this instance, not of the class


def gated_mlps(model: nn.Module, dtype: torch.dtype) -> list[tuple[nn.Module, int]]:
    """The gated MLPs of `model`, which computes in `dtype`, each with its activation."""
    found = []
    for module in model.modules():
        # experts of a mixture have parameters of these names
        parts = all(isinstance(getattr(module, name, None), nn.Module) for name in LINEARS)
        if parts and hasattr(module, "act_fn") and (act := _activation(module, dtype)) is not None:
            found.append((module, act))
    return found


@torch.no_grad()
def _activation(module: nn.Module, dtype: torch.dtype) -> int | None:
    """SILU or GELU_TANH, if the module computes the formula with one of them; else None."""
    # 33 numbers on both sides of 0: the exact GELU and its tanh form differ by 5e-4 there
    numbers = torch.linspace(-4, 4, 33, dtype=torch.float32, device=next(module.parameters()).device)
    theirs = cast(GatedMlp, module).act_fn(numbers)
    acts = {SILU: F.silu(numbers), GELU_TANH: F.gelu(numbers, approximate="tanh")}
    act = next((kind for kind, ours in acts.items() if torch.allclose(ours, theirs, atol=1e-5)), None)
    return act if act is not None and _is_the_formula(module, act, dtype) else None


def _is_the_formula(module: nn.Module, act: int, dtype: torch.dtype) -> bool:
    """Whether nothing else happens between its linears: a limit, a norm, a factor."""
    calls: list[torch.Tensor] = []
    mlp = cast(GatedMlp, module)
    gate_proj: Any = mlp.gate_proj
    width = int(getattr(gate_proj, "base_layer", gate_proj).in_features)
    x = (
        torch.linspace(-1, 1, 2 * width, dtype=torch.float32, device=next(module.parameters()).device)
        .view(1, 2, width)
        .to(dtype)
    )
    # what `down` is given, and not what it gives: an adapter there would round differently from call to call
    hook = cast(nn.Module, mlp.down_proj).register_forward_pre_hook(lambda _, inputs: calls.append(inputs[0]))
    try:
        module(x)
        gate, up = mlp.gate_proj(x).float(), mlp.up_proj(x).float()
    finally:
        hook.remove()
    # what `down` was given beside the formula, up to what 16 bits round of three numbers
    ours = (F.silu(gate) if act == SILU else F.gelu(gate, approximate="tanh")) * up
    return len(calls) == 1 and bool((calls[0].float() - ours).abs().max() <= 0.05 * ours.abs().max())
