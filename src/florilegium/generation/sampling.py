"""Choose the next token of each row from its scores: temperature, top-k, top-p, repetition penalty, and a seed a row.

The chance comes from one stream of uniform numbers a row, drawn from (seed, number of the row) alone. So the same seed
gives the same text in whatever batch a row ran, and a row's numbers do not depend on when its neighbours stop. What
top-k and top-p leave is run through in the vocabulary's order until the sum passes the chance: no order of 250,880
tokens by their scores is needed. The kernels of `sampling_kernel.py` do the same on a GPU. Shapes: B rows, V
vocabulary."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch

from florilegium.config import SamplingSettings

LIKELY = 512


def uniform_draws(settings: SamplingSettings, row: int) -> torch.Tensor:
    """The uniform numbers of row number `row`, one for each token it may write and one for its opening; float64
    [max_new_tokens + 1]."""
    key = hashlib.sha256(f"florilegium {settings.seed} {row}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key[:8], "big") >> 1)
    return torch.rand(settings.max_new_tokens + 1, generator=generator, dtype=torch.float64)


def next_tokens(
    scores_BV: torch.Tensor, seen_BV: torch.Tensor, chance_B: torch.Tensor, settings: SamplingSettings
) -> torch.Tensor:
    """The next token of each row, int64 [B]. `seen_BV` marks tokens that the row already holds; scores are float32."""
    if settings.repetition_penalty != 1:
        # Keskar et al. 2019 (arXiv:1909.05858), as Transformers does it: towards zero from above, away from it below.
        penalised = torch.where(
            scores_BV > 0, scores_BV / settings.repetition_penalty, scores_BV * settings.repetition_penalty
        )
        scores_BV = torch.where(seen_BV, penalised, scores_BV)
    if settings.temperature == 0:
        return scores_BV.argmax(-1)
    return inverse_cdf_sample(filtered_weights(scores_BV, settings), chance_B)


def next_tokens_of_rows(
    scores_BV: torch.Tensor, seen_BV: torch.Tensor, chance_B: torch.Tensor, settings: Sequence[SamplingSettings]
) -> torch.Tensor:
    """`next_tokens` with settings of each row's own; rows whose settings are equal are sampled together."""
    if len(set(settings)) == 1:
        return next_tokens(scores_BV, seen_BV, chance_B, settings[0])
    tokens_B = torch.zeros(len(settings), dtype=torch.int64, device=scores_BV.device)
    for one in set(settings):
        rows = torch.tensor([i for i, other in enumerate(settings) if other == one])
        there = rows.to(tokens_B.device)
        tokens_B[there] = next_tokens(scores_BV[there], seen_BV[there], chance_B[rows], one)
    return tokens_B


def filtered_weights(scores_BV: torch.Tensor, settings: SamplingSettings) -> torch.Tensor:
    """Probabilities up to a factor a row, float32 [B, V], and 0 for what top-k and top-p cut off. What ties with the
    last one stays."""
    z_BV = (scores_BV - scores_BV.amax(-1, keepdim=True)) / settings.temperature
    weight_BV = z_BV.exp()
    if settings.top_k and settings.top_k < z_BV.shape[1]:
        last_B1 = torch.topk(z_BV, settings.top_k).values[:, -1:]
        weight_BV = weight_BV.masked_fill(z_BV < last_B1, 0)
    if settings.top_p < 1:
        weight_BV = weight_BV.masked_fill(weight_BV < _top_p_threshold(weight_BV, settings.top_p), 0)
    return weight_BV


def _top_p_threshold(weight_BV: torch.Tensor, top_p: float) -> torch.Tensor:
    """The smallest weight [B, 1] that is left: a token stays while those before it hold less than top_p, so the first
    always does."""
    goal_B1 = top_p * weight_BV.sum(-1, keepdim=True)
    # Mostly a few hundred tokens hold enough, and finding those is far cheaper than sorting all.
    likely_BK = torch.topk(weight_BV, min(LIKELY, weight_BV.shape[1])).values
    if bool((likely_BK.sum(-1, keepdim=True) < goal_B1).any()):
        likely_BK = weight_BV.sort(-1, descending=True).values
    before_BK = likely_BK.cumsum(-1) - likely_BK
    return likely_BK.masked_fill(before_BK >= goal_B1, math.inf).amin(-1, keepdim=True)


def inverse_cdf_sample(weight_BV: torch.Tensor, chance_B: torch.Tensor) -> torch.Tensor:
    """The token at which the running sum of weights passes the row's chance."""
    running_BV = weight_BV.double().cumsum(-1)
    goal_B1 = chance_B.to(running_BV.device)[:, None] * running_BV[:, -1:]
    token_B = torch.searchsorted(running_BV, goal_B1, right=True)[:, 0]
    last_B = running_BV.argmax(-1)  # the first place at which the sum is whole: the last token with a weight
    return torch.minimum(token_B, last_B)
