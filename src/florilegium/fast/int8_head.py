"""The head in int8, a scale a row, for writing (`--kernels auto,int8-head`).

BLOOM's head is its embedding, which no quantisation touches: bloom-7b1's has 2.1 of the 8.1 GB that a token reads. A copy in
int8 has half of that. It rounds what the model has in 16 bits, and so is no default: `int8_head_losses` says what it
costs, beside the model's own loss on the same text. Shapes: V vocabulary, W width, N positions."""

from __future__ import annotations

import torch

ROWS = 16384  # that are rounded at a time: none of the copies on the way has a vocabulary's size
POSITIONS = 256  # whose scores are made at a time


def int8_rows(weight_VW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 [V, W] and float32 [V], whose product is nearest to `weight_VW`: a row's largest number is 127."""
    int8_VW = torch.empty_like(weight_VW, dtype=torch.int8)
    scale_V = torch.empty(len(weight_VW), dtype=torch.float32, device=weight_VW.device)
    for start in range(0, len(weight_VW), ROWS):
        rows = weight_VW[start : start + ROWS].float()
        scale = rows.abs().amax(1) / 127
        scale_V[start : start + ROWS] = scale
        # a row of zeros has the scale 0, by which nothing is divided
        int8_VW[start : start + ROWS] = (rows / scale.clamp_min(1e-30)[:, None]).round()
    return int8_VW, scale_V


def int8_head_losses(hidden_NW: torch.Tensor, weight_VW: torch.Tensor, targets_N: torch.Tensor) -> torch.Tensor:
    """The loss of each target, float32 [N], where the head is read in int8.

    Reference: F.cross_entropy(hidden @ (codes * scale[:, None]).T, targets, reduction="none")"""
    int8_VW, scale_V = int8_rows(weight_VW)
    int8_VW = int8_VW.to(hidden_NW.dtype)  # exact: up to 127 fit 8 bits
    pieces = [slice(start, start + POSITIONS) for start in range(0, len(targets_N), POSITIONS)]
    losses = [
        torch.nn.functional.cross_entropy(
            (hidden_NW[piece] @ int8_VW.T).float() * scale_V, targets_N[piece], reduction="none"
        )
        for piece in pieces
    ]
    return torch.cat(losses)
