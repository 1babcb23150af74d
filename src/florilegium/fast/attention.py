"""Causal ALiBi attention inside each document of a packed row: a plain form and a fast one, with one signature.

BLOOM biases each score by slope * key position. Softmax does not change when a row of scores is shifted, so within a document
slope * (key - query) is the same function, and it no longer matters where in the packed row the document lies: packing is exact. The
relative form is also the accurate one: rounded to bfloat16, the absolute bias is off by up to 2 at position 2,000, the relative bias of
the keys that matter (the near ones) is exact.

    attend = plain(document_BT, slopes_H, dtype)     once a batch: builds the mask that all layers share
    context_BHTD = attend(query_BHTD, key_BHTD, value_BHTD)

`plain` adds a float mask in torch's scaled_dot_product_attention: everywhere, forward and backward, but B*H*T*T numbers. `flex` is
torch's flex_attention, compiled: CUDA only, skips blocks between documents, T a multiple of 128.
Shapes: B rows, H heads, T tokens, D head dimension. Slopes: Press et al. 2022 (arXiv:2108.12409), with its rule for head counts that are
not a power of two.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

FLEX_BLOCK = 128


def alibi_slopes(num_heads: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """[H] in float32: 2^(-8i/n) for the largest power of two n <= H, then every other slope of 2n for the heads beyond."""
    n = 2 ** math.floor(math.log2(num_heads))
    slopes = [2 ** (-8 * i / n) for i in range(1, n + 1)]
    slopes += [2 ** (-4 * i / n) for i in range(1, 2 * (num_heads - n) + 1, 2)]
    return torch.tensor(slopes, dtype=torch.float32, device=device)


def plain(document_BT: torch.Tensor, slopes_H: torch.Tensor, dtype: torch.dtype) -> Attend:
    """Attention by a float mask of [B, H, T, T]. Padding attends to padding, so that no row of scores is empty."""
    T = document_BT.shape[1]
    index_T = torch.arange(T, device=document_BT.device)
    distance_TT = index_T[None, :] - index_T[:, None]  # key - query: 0 on the diagonal, negative before it
    allowed_BTT = (document_BT[:, :, None] == document_BT[:, None, :]) & (distance_TT <= 0)
    bias_BHTT = (slopes_H[:, None, None] * distance_TT).masked_fill(~allowed_BTT[:, None], -math.inf).to(dtype)

    def attend(query_BHTD: torch.Tensor, key_BHTD: torch.Tensor, value_BHTD: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(query_BHTD, key_BHTD, value_BHTD, attn_mask=bias_BHTT)

    return attend


def flex(document_BT: torch.Tensor, slopes_H: torch.Tensor, dtype: torch.dtype) -> Attend:
    """Attention by torch's flex_attention: scores in float32, blocks between documents skipped. CUDA, T a multiple of 128."""
    attention, block_mask = _compiled()
    B, T = document_BT.shape

    def same_document(b: Any, h: Any, query: Any, key: Any) -> Any:
        return (document_BT[b, query] == document_BT[b, key]) & (key <= query)

    def alibi(score: Any, b: Any, h: Any, query: Any, key: Any) -> Any:
        return score + slopes_H[h] * (key - query)

    mask = block_mask(same_document, B, None, T, T, device=document_BT.device, BLOCK_SIZE=FLEX_BLOCK)

    def attend(query_BHTD: torch.Tensor, key_BHTD: torch.Tensor, value_BHTD: torch.Tensor) -> torch.Tensor:
        context: torch.Tensor = attention(query_BHTD, key_BHTD, value_BHTD, score_mod=alibi, block_mask=mask)
        return context

    return attend


def flex_obstacle(device: torch.device, num_tokens: int) -> str:
    """Why `flex` cannot run for this row, or an empty string."""
    if device.type != "cuda":
        return "flex_attention has no backward pass on the CPU"
    if num_tokens % FLEX_BLOCK:
        return f"rows must be a multiple of {FLEX_BLOCK} tokens"
    return ""


@cache
def _compiled() -> tuple[Callable[..., Any], Callable[..., Any]]:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    # A row length is a shape, and a shape a compilation; beyond its limit dynamo would fall back to an unfused form, silently.
    torch._dynamo.config.recompile_limit = 128
    return torch.compile(flex_attention, dynamic=False), torch.compile(create_block_mask, dynamic=False)
