"""Causal ALiBi attention inside each document of a packed row, by torch's flex_attention; its reference is
`reference/attention.py`.

Compiled; CUDA only; blocks between documents are skipped; T a multiple of 128, D from 16 to 256. Shapes: B rows, H
heads, T tokens, D head dimension."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from florilegium.fast.card import no_bfloat16
from florilegium.reference.attention import Attend

FLEX_BLOCK = 128
MIN_HEAD_DIM = 16  # its matmuls take no fewer columns: torch refuses it while compiling, in the middle of a step
MAX_HEAD_DIM = 256  # beyond, torch has no tiles that were measured


def document_attention(document_BT: torch.Tensor, slopes_H: torch.Tensor, dtype: torch.dtype) -> Attend:
    """Attention by torch's flex_attention: scores in float32, blocks between documents skipped. CUDA, T a multiple of
    128."""
    attention, block_mask = _compiled()
    B, T = document_BT.shape

    # flex_attention traces these two, with tensors without a dimension in the place of numbers
    def same_document(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (document_BT[b, query] == document_BT[b, key]) & (key <= query)

    # relative, as the reference: it is the same wherever in the row a document lies
    def alibi(score: Tensor, b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return score + slopes_H[h] * (key - query)

    mask = block_mask(same_document, B, None, T, T, device=document_BT.device, BLOCK_SIZE=FLEX_BLOCK)

    def attend(query_BHTD: torch.Tensor, key_BHTD: torch.Tensor, value_BHTD: torch.Tensor) -> torch.Tensor:
        context: torch.Tensor = attention(query_BHTD, key_BHTD, value_BHTD, score_mod=alibi, block_mask=mask)
        return context

    return attend


def unsupported_reason(device: torch.device, num_tokens: int, head_dim: int) -> str:
    """Why `document_attention` cannot run for this row and heads of this size, or an empty string."""
    if device.type != "cuda":
        return "flex_attention has no backward pass on the CPU"
    if no_bfloat16(device):
        return "it was never run on a card older than Ampere (compute capability 8.0)"
    if num_tokens % FLEX_BLOCK:
        return f"rows must be a multiple of {FLEX_BLOCK} tokens"
    return unsupported_heads(head_dim)


def unsupported_heads(head_dim: int) -> str:
    """Why no row of such heads can be given to it, or an empty string."""
    if MIN_HEAD_DIM <= head_dim <= MAX_HEAD_DIM:
        return ""
    return f"the model's heads have {head_dim} columns, and it takes {MIN_HEAD_DIM} to {MAX_HEAD_DIM}"


@cache
def _compiled() -> tuple[Callable[..., Any], Callable[..., Any]]:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    # A row length is a shape, and a shape a compilation; beyond its limit dynamo would fall back to an unfused form,
    # silently.
    torch._dynamo.config.recompile_limit = 128
    # The mask as well: uncompiled it is made whole first, [B, T, T], and cut into blocks after.
    return torch.compile(flex_attention, dynamic=False), torch.compile(create_block_mask, dynamic=False)
