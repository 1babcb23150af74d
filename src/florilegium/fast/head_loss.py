"""Cross entropy under a frozen language-model head, without the logits of more than a chunk of rows.

BLOOM has 250,880 tokens: the float32 logits of one step of 1,000 positions are 1 GB, and stock training holds about
four such tensors. The head takes no gradient here, so all that the backward pass needs is dL/dhidden, [N, W] with W the
model's width: it is made in the forward pass, chunk by chunk, while the chunk's logits are at hand, and the logits are
forgotten. A head that must be cast to be multiplied goes a slice of the vocabulary at a time (`head_loss_slices.py`).

    losses_N = head_losses(hidden_NW, weight_VW, targets_N)     the negative log-likelihood of each target, float32

Shapes: N rows that have a target (drop the others first), W width, V vocabulary.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F

from florilegium.fast.head_loss_slices import sliced_losses
from florilegium.reference import AS_THEY_ARE, LogitRule

# A GPU wants a few hundred rows at a time to keep its matrix units busy.
CHUNK_BYTES = {"cpu": 64 * 2**20, "cuda": 512 * 2**20}


def head_losses(
    hidden_NW: torch.Tensor,
    weight_VW: torch.Tensor,
    targets_N: torch.Tensor,
    chunk_bytes: int | None = None,
    rule: LogitRule = AS_THEY_ARE,
) -> torch.Tensor:
    """-log softmax(hidden W^T)[target] for each row, float32 [N], 0 where a target is negative; differentiable in
    `hidden_NW` only. `rule` is what the family makes of hidden W^T first.

    At most about `chunk_bytes` (default: by device) of float32 logits exist at a time. Softmax and sums are in float32
    whatever the inputs are. On a GPU, in bfloat16, no logit counts for more than e^64 of the target's
    (`head_loss_kernel.py`)."""
    apply: Any = FrozenHeadLosses.apply
    losses: torch.Tensor = apply(
        hidden_NW, weight_VW.detach(), targets_N, chunk_bytes or CHUNK_BYTES[hidden_NW.device.type], rule
    )
    return losses


class HeadLossContext(Protocol):
    """autograd's context."""

    needs_input_grad: tuple[bool, ...]
    saved_tensors: tuple[torch.Tensor, ...]

    def save_for_backward(self, *tensors: torch.Tensor | None) -> None: ...


class FrozenHeadLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: HeadLossContext,
        hidden_NW: torch.Tensor,
        weight_VW: torch.Tensor,
        targets_N: torch.Tensor,
        chunk_bytes: int,
        rule: LogitRule,
    ) -> torch.Tensor:
        if hidden_NW.dtype != weight_VW.dtype:
            needs_grad = ctx.needs_input_grad[0]
            losses_N, grad_NW = sliced_losses(hidden_NW, weight_VW, targets_N, chunk_bytes, needs_grad, rule)
            ctx.save_for_backward(grad_NW)
            return losses_N
        # Bytes of a logit: the kernel writes over bfloat16 in place, the reference counts in float32.
        rows = max(16, chunk_bytes // ((2 if hidden_NW.is_cuda and rule.is_plain else 4) * weight_VW.shape[0]))
        if rows > 128:
            rows -= rows % 128  # whole tiles of the matrix units
        # The gradient is made here and not in backward: the logits are at hand, and W is read while they are.
        losses_N = hidden_NW.new_empty(len(hidden_NW), dtype=torch.float32)
        grad_NW = torch.empty_like(hidden_NW) if ctx.needs_input_grad[0] else None
        for start in range(0, len(hidden_NW), rows):
            here = slice(start, start + rows)
            grad = None if grad_NW is None else grad_NW[here]
            losses_N[here] = chunk_losses(hidden_NW[here], weight_VW, targets_N[here], grad, rule)
        # All that is kept: [N, W], where the logits were [N, V].
        ctx.save_for_backward(grad_NW)
        return losses_N

    @staticmethod
    def backward(ctx: HeadLossContext, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:
        (grad_NW,) = ctx.saved_tensors
        # A row's loss depends on its own hidden state alone, so the chain rule is one product a row.
        return grad_NW * grads[0][:, None].to(grad_NW.dtype), None, None, None, None


def chunk_losses(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    grad: torch.Tensor | None,
    rule: LogitRule = AS_THEY_ARE,
) -> torch.Tensor:
    """Losses of one chunk of rows; writes dL/dhidden into `grad`, where there is one. The [rows, V] buffer turns from
    logits into probabilities in place."""
    # The kernel measures each score against the target's, which is no difference of logits once they are changed.
    if hidden.is_cuda and hidden.dtype == weight.dtype == torch.bfloat16 and rule.is_plain:
        return _chunk_by_kernel(hidden, weight, targets, grad)
    scores = rule.logits(_logits(hidden, weight))
    slope = None if rule.is_plain or grad is None else rule.slope(scores)
    # From here on in place: one buffer of [rows, V] and no second, but for the slopes of capped logits.
    none, targets = targets < 0, targets.clamp(min=0)
    row = torch.arange(len(targets), device=targets.device)
    top = scores.amax(-1, keepdim=True)
    target_score = scores[row, targets] - top[:, 0]
    probabilities = scores.sub_(top).exp_()
    total = probabilities.sum(-1)
    if grad is not None:
        probabilities.div_(total[:, None])
        probabilities[row, targets] -= 1  # d loss / d logits = softmax - one-hot
        probabilities.masked_fill_(none[:, None], 0)
        if slope is not None:
            probabilities.mul_(slope)
        _times_weight(probabilities, weight, grad)
    # Sum and score are both relative to the row's largest logit, which falls out here.
    return (total.log() - target_score).masked_fill(none, 0)


def _chunk_by_kernel(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, grad: torch.Tensor | None
) -> torch.Tensor:
    """The same with logits in bfloat16, read once and written once."""
    from florilegium.fast import head_loss_kernel

    logits = torch.mm(hidden, weight.T)
    losses = hidden.new_empty(len(hidden), dtype=torch.float32)
    rest = head_loss_kernel.losses_and_weights(logits, hidden, weight, targets, losses, grad=grad is not None)
    if grad is not None:
        # float32: what the target's own row is subtracted from, and both may be nearly equal
        sums = torch.mm(logits, weight, out_dtype=torch.float32)
        head_loss_kernel.head_grad(sums, weight, targets, rest, grad)
    return losses


def _logits(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return F.linear(hidden, weight).float()


def _times_weight(probabilities: torch.Tensor, weight: torch.Tensor, grad: torch.Tensor) -> None:
    grad.zero_()
    grad.addmm_(probabilities.to(grad.dtype), weight)
