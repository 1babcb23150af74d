"""Numbers that are none (NaN, infinity) in tensors that are about to be saved."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from florilegium.errors import DivergedError

FIX = "Lower --learning-rate; the last checkpoint is good: florilegium resume RUN --learning-rate X goes on from it"


def check_tensors(tensors: Mapping[str, torch.Tensor], what: str) -> None:
    """Raises DivergedError that names the first tensor of `what` with a NaN or an infinity in it."""
    for name, tensor in tensors.items():
        # A sum of finite numbers may overflow, so it only tells where to look; most tensors are passed by one cheap kernel.
        if tensor.is_floating_point() and not math.isfinite(float(tensor.sum())) and not bool(torch.isfinite(tensor).all()):
            raise DivergedError(f"{what}: {name} holds a number that is none, and was not saved", FIX)
