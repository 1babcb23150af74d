"""Causal ALiBi attention inside each document of a packed row, in torch's own terms.

BLOOM biases each score by slope * key position. Softmax does not change when a row of scores is shifted, so within a
document slope * (key - query) is the same function, and it no longer matters where in the packed row the document lies:
packing is exact. The relative form is also the accurate one: rounded to bfloat16, the absolute bias is off by up to 2
at position 2,000, the relative bias of the keys that matter (the near ones) is exact.

    attend = sdpa_attention(document_BT, slopes_H, dtype)     once a batch: builds the mask that all layers share
    context_BHTD = attend(query_BHTD, key_BHTD, value_BHTD)

A float mask in torch's scaled_dot_product_attention: everywhere, forward and backward, but B*H*T*T numbers. Shapes: B
rows, H heads, T tokens, D head dimension. Slopes: Press et al. 2022 (arXiv:2108.12409), with its rule for head counts
that are not a power of two."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def alibi_slopes(num_heads: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """[H] in float32: 2^(-8i/n) for the largest power of two n <= H, then every other slope of 2n for the heads
    beyond."""
    n = 2 ** math.floor(math.log2(num_heads))
    slopes = [2 ** (-8 * i / n) for i in range(1, n + 1)]
    slopes += [2 ** (-4 * i / n) for i in range(1, 2 * (num_heads - n) + 1, 2)]
    return torch.tensor(slopes, dtype=torch.float32, device=device)


def sdpa_attention(document_BT: torch.Tensor, slopes_H: torch.Tensor, dtype: torch.dtype) -> Attend:
    """Attention by a float mask of [B, H, T, T]. Padding attends to padding, so that no row of scores is empty."""
    T = document_BT.shape[1]
    index_T = torch.arange(T, device=document_BT.device)
    distance_TT = index_T[None, :] - index_T[:, None]  # key - query: 0 on the diagonal, negative before it
    allowed_BTT = (document_BT[:, :, None] == document_BT[:, None, :]) & (distance_TT <= 0)
    bias_BHTT = (slopes_H[:, None, None] * distance_TT).masked_fill(~allowed_BTT[:, None], -math.inf).to(dtype)

    def attend(query_BHTD: torch.Tensor, key_BHTD: torch.Tensor, value_BHTD: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(query_BHTD, key_BHTD, value_BHTD, attn_mask=bias_BHTT)

    return attend
