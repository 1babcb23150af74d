"""RMSNorm as one kernel forward and one backward, torch's own, where Transformers writes it as six operations that keep
four copies of their input.

It computes in float32 and rounds once, where Transformers rounds before it multiplies by the weight. A module is taken
for one by what it computes, not by its name: Gemma's has another weight for the same formula, and stays."""

from __future__ import annotations

from types import MethodType
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from florilegium.fast.layers.packed_rows import rows_of

NEAR = 0.02  # of the largest number: two roundings to bfloat16, and 64 numbers to be unlucky with


def rms_norms(model: nn.Module) -> list[nn.Module]:
    """The modules of `model` that compute RMSNorm with a weight, and nothing else."""
    return [module for module in model.modules() if _is_rms_norm(module)]


def install(module: nn.Module) -> None:
    """Gives the module the fused forward for packed rows."""
    plain = module.forward

    def forward(self: nn.Module, x: torch.Tensor, *more: object, **options: object) -> torch.Tensor:
        weight = cast(torch.Tensor, self.weight)
        each = x.shape[2:].numel()  # q and k are normed head by head, so a token may have many vectors
        if more or options or x.dtype != weight.dtype or rows_of(x, each) is None:
            return cast(torch.Tensor, plain(x, *more, **options))
        return F.rms_norm(x, weight.shape, weight, _epsilon(self))

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
    # numbers of all sizes, so that a constant factor, an offset and another epsilon would show
    x = (
        torch.linspace(-2, 3, 4 * len(weight), dtype=torch.float32, device=weight.device)
        .view(1, 4, -1)
        .to(weight.dtype)
    )
    ours, theirs = F.rms_norm(x, weight.shape, weight, epsilon).float(), module(x).float()
    return bool((ours - theirs).abs().max() <= NEAR * theirs.abs().max())
