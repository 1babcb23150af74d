"""The head in int8, a scale a row, for writing (`--kernels auto,int8-head`).

BLOOM's head is its embedding, which no quantisation touches: bloom-7b1's has 2.1 of the 8.1 GB that a token reads. A copy in
int8 has half of that. It rounds what the model has in 16 bits, and so is no default: `losses_of_both_heads` says what it
costs. Shapes: V vocabulary, W width, N positions."""

from __future__ import annotations

import torch

ROWS = 16384  # that are rounded at a time: no other copy on the way has a vocabulary's size
POSITIONS = 1024  # whose scores of so many rows are made at a time


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


def losses_of_both_heads(
    hidden_NW: torch.Tensor, weight_VW: torch.Tensor, targets_N: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of each target, float32 [N], by the head as it is and by `int8_rows` of it, from scores in float32: a
    score in bfloat16 is off by more than the two differ.

    Reference: F.cross_entropy(hidden.float() @ head.float().T, targets, reduction="none"), of both heads"""
    pieces = [slice(start, start + POSITIONS) for start in range(0, len(targets_N), POSITIONS)]
    found = [_losses(hidden_NW[piece], weight_VW, targets_N[piece]) for piece in pieces]
    plain, rounded = zip(*found, strict=True)
    return torch.cat(plain), torch.cat(rounded)


def _losses(hidden_NW: torch.Tensor, weight_VW: torch.Tensor, targets_N: torch.Tensor) -> list[torch.Tensor]:
    """A share of the vocabulary at a time: logsumexp as it grows, and the target's own score when it comes."""
    empty_N = torch.zeros(len(targets_N), dtype=torch.float32, device=hidden_NW.device)
    sums, own = [empty_N - float("inf")] * 2, [empty_N] * 2
    for start in range(0, len(weight_VW), ROWS):
        rows = weight_VW[start : start + ROWS]
        int8, scale = int8_rows(rows)
        here = (targets_N >= start) & (targets_N < start + len(rows))
        column = torch.where(here, targets_N - start, 0)[:, None]
        # up to 127 is exact in 8 bits
        for kind, scores in enumerate((_scores(hidden_NW, rows), _scores(hidden_NW, int8.to(rows.dtype)) * scale)):
            sums[kind] = torch.logaddexp(sums[kind], scores.logsumexp(1))
            own[kind] = torch.where(here, scores.gather(1, column)[:, 0], own[kind])
    return [total - score for total, score in zip(sums, own, strict=True)]


def _scores(hidden_NW: torch.Tensor, rows_VW: torch.Tensor) -> torch.Tensor:
    if hidden_NW.is_cuda and hidden_NW.dtype == rows_VW.dtype != torch.float32:
        return torch.mm(hidden_NW, rows_VW.T, out_dtype=torch.float32)
    return hidden_NW.float() @ rows_VW.float().T
