"""The Triton kernel of `head_loss.py`: from a chunk's logits to its losses and, in the logits' place, their gradient."""

# ruff: noqa: E741, N803
# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-any-return"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl


@triton.jit
def softmax_rows(logits, hidden, weight, targets, losses, V, W, GRAD: tl.constexpr, BLOCK: tl.constexpr, BLOCK_W: tl.constexpr):
    """One program a row. The target's own logit is made again in float32: rounded to bfloat16 it would be off by up to 0.03 at 8."""
    row = tl.program_id(0).to(tl.int64)
    target = tl.load(targets + row)
    none = target < 0  # no target: no loss, no gradient
    target = tl.maximum(target, 0)
    wide = tl.arange(0, BLOCK_W)
    h = tl.load(hidden + row * W + wide, mask=wide < W, other=0.0).to(tl.float32)
    exact = tl.sum(h * tl.load(weight + target * W + wide, mask=wide < W, other=0.0).to(tl.float32), 0)
    top = exact
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, V, BLOCK):
        column = start + tl.arange(0, BLOCK)
        score = tl.load(logits + row * V + column, mask=column < V, other=float("-inf")).to(tl.float32)
        score = tl.where(column == target, exact, score)
        higher = tl.maximum(top, tl.max(score, 0))
        total = total * tl.exp(top - higher) + tl.exp(score - higher)
        top = higher
    level = top + tl.log(tl.sum(total, 0))
    tl.store(losses + row, tl.where(none, 0.0, level - exact))
    if GRAD:
        for start in range(0, V, BLOCK):
            column = start + tl.arange(0, BLOCK)
            score = tl.load(logits + row * V + column, mask=column < V, other=float("-inf")).to(tl.float32)
            share = tl.where(column == target, tl.exp(exact - level) - 1, tl.exp(score - level))
            share = tl.where(none, 0.0, share)
            tl.store(logits + row * V + column, share.to(logits.dtype.element_ty), mask=column < V)


def softmax_losses(
    logits_NV: torch.Tensor, hidden_NW: torch.Tensor, weight_VW: torch.Tensor, targets_N: torch.Tensor, losses_N: torch.Tensor, grad: bool
) -> None:
    """Writes each row's loss to `losses_N` and, with `grad`, the gradient of the logits over the logits."""
    N, V = logits_NV.shape
    W = hidden_NW.shape[1]
    kernel: Any = softmax_rows
    kernel[(N,)](
        logits_NV, hidden_NW, weight_VW, targets_N, losses_N, V, W, GRAD=grad, BLOCK=8192, BLOCK_W=triton.next_power_of_2(W), num_warps=32
    )  # fmt: skip
