"""The Triton kernels of `head_loss.py`: from a chunk's logits to its losses, and to their gradient, with one look at
each logit.

A softmax needs the sum over its row before the first share is known, which is a second look. Here the row's shares are
measured against the target's own logit l_t, which is known before (one product of two vectors, in float32). With e_v =
exp(l_v - l_t) and `rest` their sum over all v but the target,

    loss = log(1 + rest)            dL/dhidden = (sum over v but the target of e_v W_v  -  rest W_t) / (1 + rest)

so e is written over the logits, a 0 in the target's place, the product with W is made of that, and `settle_rows` does
what is left. The sum has no 1 of the target's for the others to be lost beside: a token that is known well gets the
gradient it should. No logit counts for more than e^LIMIT of the target's, so nothing overflows; a loss beyond LIMIT is
cut there, and its gradient still points the right way."""

# ruff: noqa: E741, N803
# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-any-return"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

LIMIT = tl.constexpr(64.0)


@triton.jit
def share_rows(
    logits, hidden, weight, targets, losses, rests, V, W, GRAD: tl.constexpr, BLOCK: tl.constexpr, BLOCK_W: tl.constexpr
):
    """One program a row. The target's own logit is made again in float32: rounded to bfloat16 it would be off by up to
    0.03 at 8."""
    row = tl.program_id(0).to(tl.int64)
    target = tl.load(targets + row)
    none = target < 0  # no target: no loss, no gradient
    target = tl.maximum(target, 0)
    wide = tl.arange(0, BLOCK_W)
    h = tl.load(hidden + row * W + wide, mask=wide < W, other=0.0).to(tl.float32)
    exact = tl.sum(h * tl.load(weight + target * W + wide, mask=wide < W, other=0.0).to(tl.float32), 0)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, V, BLOCK):
        column = start + tl.arange(0, BLOCK)
        above = tl.load(logits + row * V + column, mask=column < V, other=float("-inf")).to(tl.float32) - exact
        # a NaN is not above: it stays
        share = tl.where(column == target, 0.0, tl.exp(tl.where(above > LIMIT, LIMIT, above)))
        total += share
        if GRAD:
            tl.store(logits + row * V + column, share.to(logits.dtype.element_ty), mask=column < V)
    rest = tl.sum(total, 0)
    tl.store(losses + row, tl.where(none, 0.0, tl.log(1 + rest)))
    tl.store(rests + row, rest)


@triton.jit
def settle_rows(sums, weight, targets, rests, grad, W, BLOCK_W: tl.constexpr):
    """grad = (sums - rest W_t) / (1 + rest), and 0 without a target. One program a row."""
    row = tl.program_id(0).to(tl.int64)
    target = tl.load(targets + row)
    rest = tl.load(rests + row)
    column = tl.arange(0, BLOCK_W)
    inside = column < W
    own = tl.load(weight + tl.maximum(target, 0) * W + column, mask=inside, other=0.0).to(tl.float32)
    y = (tl.load(sums + row * W + column, mask=inside, other=0.0).to(tl.float32) - rest * own) / (1 + rest)
    tl.store(grad + row * W + column, tl.where(target < 0, 0.0, y).to(grad.dtype.element_ty), mask=inside)


def shares(
    logits_NV: torch.Tensor,
    hidden_NW: torch.Tensor,
    weight_VW: torch.Tensor,
    targets_N: torch.Tensor,
    losses_N: torch.Tensor,
    grad: bool,
) -> torch.Tensor:
    """Writes each row's loss to `losses_N` and, with `grad`, what each token weighs beside the target over the logits.
    Returns the sums of those weights, float32 [N]."""
    N, V = logits_NV.shape
    W = hidden_NW.shape[1]
    rest_N = torch.empty_like(losses_N)
    kernel: Any = share_rows
    kernel[(N,)](
        logits_NV, hidden_NW, weight_VW, targets_N, losses_N, rest_N, V, W, GRAD=grad, BLOCK=8192, BLOCK_W=triton.next_power_of_2(W),
        num_warps=32,
    )  # fmt: skip
    return rest_N


def settle(
    sums_NW: torch.Tensor, weight_VW: torch.Tensor, targets_N: torch.Tensor, rest_N: torch.Tensor, grad_NW: torch.Tensor
) -> None:
    """Writes the gradient of the hidden states to `grad_NW`; `sums_NW` is the product of those weights with the
    head."""
    N, W = grad_NW.shape
    kernel: Any = settle_rows
    kernel[(N,)](sums_NW, weight_VW, targets_N, rest_N, grad_NW, W, BLOCK_W=triton.next_power_of_2(W), num_warps=4)
