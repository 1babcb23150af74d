"""RMSNorm as one function forward and one backward (`parts.py`), where Transformers writes it as six operations that keep
four copies of their input.

It computes in float32 and rounds once, where Transformers rounds before it multiplies by the weight. A module is taken
for one by what it computes, not by its name: Gemma's has another weight for the same formula, and stays."""

from __future__ import annotations

import copy
from types import MethodType
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from florilegium.fast.layers.packed_rows import rows_of
from florilegium.fast.layers.parts import LayerParts

NEAR = 1e-4  # of the largest number, in float32


def rms_norms(model: nn.Module) -> list[nn.Module]:
    """The modules of `model` that compute RMSNorm with a weight, and nothing else."""
    return [module for module in model.modules() if _is_rms_norm(module)]


def install(module: nn.Module, parts: LayerParts) -> None:
    """Gives the module the fused forward for packed rows."""
    plain = module.forward

    def forward(self: nn.Module, x: torch.Tensor, *more: object, **options: object) -> torch.Tensor:
        weight = cast(torch.Tensor, self.weight)
        each = x.shape[2:].numel()  # q and k are normed head by head, so a token may have many vectors
        if more or options or x.dtype != weight.dtype or rows_of(x, each) is None:
            return cast(torch.Tensor, plain(x, *more, **options))
        return parts.rms_norm(x, weight, _epsilon(self))

    module.forward = MethodType(forward, module)  # of this instance, not of the class


def _epsilon(module: nn.Module) -> float | None:
    found = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    # by the two names that Transformers' families have for it
    return found if isinstance(found, float) else None


@torch.no_grad()
def _is_rms_norm(module: nn.Module) -> bool:
    weight, epsilon = getattr(module, "weight", None), _epsilon(module)
    if (
        not type(module).__name__.endswith("RMSNorm")
        or epsilon is None
        or set(dict(module.named_parameters())) != {"weight"}
    ):
        return False
    if not isinstance(weight, torch.Tensor) or weight.dim() != 1:
        return False
    # a copy in float32 with a weight near 1: beside the weight of 80 that a trained norm may have, Gemma's 1 + weight is
    # within what 16 bits round
    copied: nn.Module = copy.deepcopy(module).float()
    near_1 = torch.linspace(0.5, 2, len(weight), dtype=torch.float32, device=weight.device)
    cast(torch.Tensor, copied.weight).data = near_1
    # numbers of all sizes, so that a constant factor, an offset and another epsilon would show
    x = torch.linspace(-2, 3, 4 * len(weight), dtype=torch.float32, device=weight.device).view(1, 4, -1)
    ours, theirs = F.rms_norm(x, weight.shape, near_1, epsilon), copied(x).float()
    return bool((ours - theirs).abs().max() <= NEAR * theirs.abs().max())
