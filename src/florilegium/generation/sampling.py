"""Choose the next token of each row from its scores: temperature, top-k, top-p, repetition penalty, and a seed a row.

The chance comes from one stream of uniform numbers a row, drawn from (seed, number of the row) alone. So the same seed gives the same
text in whatever batch a row ran, and a row's numbers do not depend on when its neighbours stop. Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

import hashlib

import torch

from florilegium.config import SamplingSettings


def chances(settings: SamplingSettings, row: int) -> torch.Tensor:
    """The uniform numbers of row number `row`, one for each token it may write and one for its opening; float64 [max_new_tokens + 1]."""
    key = hashlib.sha256(f"florilegium {settings.seed} {row}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key[:8], "big") >> 1)
    return torch.rand(settings.max_new_tokens + 1, generator=generator, dtype=torch.float64)


def next_tokens(scores_BV: torch.Tensor, seen_BV: torch.Tensor, chance_B: torch.Tensor, settings: SamplingSettings) -> torch.Tensor:
    """The next token of each row, int64 [B]. `seen_BV` marks tokens that the row already holds; `scores_BV` (float32) is changed."""
    if settings.repetition_penalty != 1:
        # Keskar et al. 2019 (arXiv:1909.05858), as Transformers does it: towards zero from above, away from it below.
        penalised = torch.where(scores_BV > 0, scores_BV / settings.repetition_penalty, scores_BV * settings.repetition_penalty)
        scores_BV = torch.where(seen_BV, penalised, scores_BV)
    if settings.temperature == 0:
        return scores_BV.argmax(-1)
    probabilities_BV, order_BV = sorted_probabilities(scores_BV, settings)
    return pick(probabilities_BV, order_BV, chance_B)


def sorted_probabilities(scores_BV: torch.Tensor, settings: SamplingSettings) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities, largest first, of the tokens that top-k and top-p leave (0 for the others), and the tokens in that order."""
    ordered_BV, order_BV = torch.sort(scores_BV - scores_BV.amax(-1, keepdim=True), descending=True, stable=True)
    probabilities_BV = torch.softmax(ordered_BV / settings.temperature, -1)
    if settings.top_k:
        probabilities_BV[:, settings.top_k :] = 0
        probabilities_BV /= probabilities_BV.sum(-1, keepdim=True)
    if settings.top_p < 1:
        # A token stays while those before it hold less than top_p; so the first always stays.
        before_BV = probabilities_BV.cumsum(-1) - probabilities_BV
        probabilities_BV = probabilities_BV.masked_fill(before_BV >= settings.top_p, 0)
    return probabilities_BV, order_BV


def pick(probabilities_BV: torch.Tensor, order_BV: torch.Tensor, chance_B: torch.Tensor) -> torch.Tensor:
    """The token at which the running sum of probabilities passes the row's chance."""
    running_BV = probabilities_BV.double().cumsum(-1)
    goal_B1 = chance_B.to(running_BV.device)[:, None] * running_BV[:, -1:]
    place_B1 = torch.searchsorted(running_BV, goal_B1, right=True)
    last_B1 = ((probabilities_BV > 0).sum(-1, keepdim=True) - 1).clamp(min=0)
    return order_BV.gather(-1, torch.minimum(place_B1, last_B1))[:, 0]
