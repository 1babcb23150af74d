"""The Triton kernels of `head_loss.py`: from a chunk's logits to its losses, and to their gradient, reading each logit
once.

A softmax needs the sum over its row before the first probability is known, which is a second read. Here the row's are
measured against the target's own logit l_t, which is known before (one product of two vectors, in float32). With e_v =
exp(l_v - l_t) and `rest` their sum over all v but the target,

    loss = log(1 + rest)            dL/dhidden = (sum over v but the target of e_v W_v  -  rest W_t) / (1 + rest)

so e is written over the logits, a 0 in the target's column, the matmul with W is made of that, and
`head_grad_kernel` does what is left. The sum has no 1 of the target's for the others to be lost beside: a token that is known well gets the
gradient it should. No logit counts for more than e^LIMIT of the target's, so nothing overflows; a loss beyond LIMIT is
cut there, and its gradient still points the right way."""

# ruff: noqa: E741, N803
# mypy: disable-error-code="no-untyped-def,untyped-decorator,no-any-return"

from __future__ import annotations

import torch
import triton
import triton.language as tl

LIMIT = tl.constexpr(64.0)  # e^64 = 6e27, and 250,880 of them: far below what bfloat16 and float32 hold


@triton.jit
def head_loss_kernel(
    logits, hidden, weight, targets, losses, rests, V, W, GRAD: tl.constexpr, BLOCK: tl.constexpr, BLOCK_W: tl.constexpr
):
    """Reference: losses = F.cross_entropy(logits, targets, reduction="none", ignore_index=any below 0); logits =
    exp(logits - target logit), 0 in the target's column; rests = logits.sum(1)

    logits [N, V] bfloat16, written over (GRAD); hidden [N, W]; weight [V, W]; targets [N] int64; losses, rests [N]
    float32. One program a row."""
    row = tl.program_id(0).to(tl.int64)
    target = tl.load(targets + row)
    none = target < 0  # no target: no loss, no gradient
    target = tl.maximum(target, 0)
    w = tl.arange(0, BLOCK_W)
    h = tl.load(hidden + row * W + w, mask=w < W, other=0.0).to(tl.float32)
    # In float32: rounded to bfloat16, as the logits are, it would be off by up to 0.03 at 8, and so would the loss.
    exact = tl.sum(h * tl.load(weight + target * W + w, mask=w < W, other=0.0).to(tl.float32), 0)
    total = tl.zeros([BLOCK], tl.float32)  # a sum for each lane: added across lanes once, at the end
    for start in range(0, V, BLOCK):
        column = start + tl.arange(0, BLOCK)
        relative = tl.load(logits + row * V + column, mask=column < V, other=float("-inf")).to(tl.float32) - exact
        # a NaN is not above the limit: it stays, and the loss shows it
        weighed = tl.where(column == target, 0.0, tl.exp(tl.where(relative > LIMIT, LIMIT, relative)))
        total += weighed
        if GRAD:
            tl.store(logits + row * V + column, weighed.to(logits.dtype.element_ty), mask=column < V)
    rest = tl.sum(total, 0)
    tl.store(losses + row, tl.where(none, 0.0, tl.log(1 + rest)))
    tl.store(rests + row, rest)


@triton.jit
def head_grad_kernel(sums, weight, targets, rests, grad, W, BLOCK_W: tl.constexpr):
    """Reference: grad = (sums - rests[:, None] * weight[targets]) / (1 + rests[:, None]), 0 without a target

    sums, grad [N, W]; weight [V, W]; targets, rests [N]. One program a row."""
    row = tl.program_id(0).to(tl.int64)
    target = tl.load(targets + row)
    rest = tl.load(rests + row)
    column = tl.arange(0, BLOCK_W)
    inside = column < W
    # 64 bits: V * W passes 2^31 for BLOOM-176B
    own = tl.load(weight + tl.maximum(target, 0) * W + column, mask=inside, other=0.0).to(tl.float32)
    y = (tl.load(sums + row * W + column, mask=inside, other=0.0).to(tl.float32) - rest * own) / (1 + rest)
    tl.store(grad + row * W + column, tl.where(target < 0, 0.0, y).to(grad.dtype.element_ty), mask=inside)


def losses_and_weights(
    logits_NV: torch.Tensor,
    hidden_NW: torch.Tensor,
    weight_VW: torch.Tensor,
    targets_N: torch.Tensor,
    losses_N: torch.Tensor,
    *,
    grad: bool,
) -> torch.Tensor:
    """Writes each row's loss to `losses_N` and, with `grad`, what each token weighs beside the target over the logits.
    Returns the sums of those weights, float32 [N]."""
    N, V = logits_NV.shape
    W = hidden_NW.shape[1]
    assert all(t.is_contiguous() for t in (logits_NV, hidden_NW, weight_VW, targets_N, losses_N))
    assert len(hidden_NW) == len(targets_N) == N and weight_VW.shape == (V, W) and targets_N.dtype == torch.int64
    rest_N = torch.empty_like(losses_N)
    head_loss_kernel[(N,)](
        logits_NV, hidden_NW, weight_VW, targets_N, losses_N, rest_N, V, W, GRAD=grad, BLOCK=8192, BLOCK_W=triton.next_power_of_2(W),
        # a program has a whole row of logits to read, so it takes warps enough to keep memory busy by itself
        num_warps=32,
    )  # fmt: skip
    return rest_N


def head_grad(
    sums_NW: torch.Tensor, weight_VW: torch.Tensor, targets_N: torch.Tensor, rest_N: torch.Tensor, grad_NW: torch.Tensor
) -> None:
    """Writes the gradient of the hidden states to `grad_NW`; `sums_NW` is the product of those weights with the
    head."""
    N, W = grad_NW.shape
    assert sums_NW.is_contiguous() and sums_NW.shape == (N, W) and grad_NW.is_contiguous()
    head_grad_kernel[(N,)](
        sums_NW, weight_VW, targets_N, rest_N, grad_NW, W, BLOCK_W=triton.next_power_of_2(W), num_warps=4
    )
