"""The same losses where the head must be cast to be multiplied: a slice of the vocabulary at a time, for all rows.

A processor without bfloat16 of its own computes in float32, and a 16-bit head of 250,880 x 1,024 is a gigabyte there.
Cast anew for every few rows, forward and backward, that copy was most of a training step. Here each slice is cast once,
multiplied by every row while it is there, and dropped. Softmax needs the sum over all slices, so it is made as
FlashAttention makes its own (Dao et al. 2022, arXiv:2205.14135): sums relative to the largest logit so far, scaled down
when a larger one comes. The gradient is added up in the same pass:

    losses_N, grad_NW = sliced_losses(hidden_NW, weight_VW, targets_N, chunk_bytes, needs_grad)

Reference: `reference.cross_entropy_losses` and its gradient in `hidden_NW`. Shapes: N rows, W width, V vocabulary, S one
slice of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from florilegium.reference import AS_THEY_ARE, LogitRule

SLICE_BYTES = 16 * 2**20  # of the cast slice: larger ones gain nothing


@dataclass(frozen=True)
class RunningSums:
    """What has been added up of some rows, all relative to exp(top): the other tokens' weights (`rest_N1`), and those
    times their rows of the head (`grad_NW`). The target's own is kept out of both: where it is nearly certain, its
    gradient would be the difference of two nearly equal numbers."""

    top_N1: torch.Tensor
    rest_N1: torch.Tensor
    score_N1: torch.Tensor  # the target's logit
    grad_NW: torch.Tensor | None

    def __getitem__(self, rows: slice) -> RunningSums:
        grad_NW = None if self.grad_NW is None else self.grad_NW[rows]
        return RunningSums(self.top_N1[rows], self.rest_N1[rows], self.score_N1[rows], grad_NW)


def sliced_losses(
    hidden_NW: torch.Tensor,
    weight_VW: torch.Tensor,
    targets_N: torch.Tensor,
    chunk_bytes: int,
    needs_grad: bool,
    rule: LogitRule = AS_THEY_ARE,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The loss of each row in float32, 0 where its target is negative, and its gradient in `hidden_NW`. At most
    `chunk_bytes` of logits exist at a time, and SLICE_BYTES of the head."""
    (N, W), V, dtype = hidden_NW.shape, len(weight_VW), hidden_NW.dtype
    size = min(V, max(256, SLICE_BYTES // (W * dtype.itemsize)))
    rows = max(16, chunk_bytes // (4 * size))
    sums = _no_sums(hidden_NW, needs_grad)
    # One buffer for every slice: nothing of its size is allocated in the loop.
    cast_SW = hidden_NW.new_empty(size, W)
    for first in range(0, V, size):
        part_SW = cast_SW[: min(size, V - first)].copy_(weight_VW[first : first + size])
        for start in range(0, N, rows):
            here = slice(start, start + rows)
            own_rule = rule.of_tokens(slice(first, first + size))
            _add_slice(sums[here], hidden_NW[here], part_SW, targets_N[here, None] - first, own_rule)
    return _finish(sums, weight_VW, targets_N, dtype, rule)


def _no_sums(hidden_NW: torch.Tensor, needs_grad: bool) -> RunningSums:
    ones_N1 = hidden_NW.new_ones(len(hidden_NW), 1, dtype=torch.float32)
    grad_NW = torch.zeros_like(hidden_NW, dtype=torch.float32) if needs_grad else None
    # -inf: whatever comes first is larger, and scales sums of 0 by exp(-inf), 0
    return RunningSums(-torch.inf * ones_N1, 0 * ones_N1, 0 * ones_N1, grad_NW)


def _add_slice(
    sums: RunningSums, hidden_NW: torch.Tensor, weight_SW: torch.Tensor, targets_N1: torch.Tensor, rule: LogitRule
) -> None:
    """Adds one slice of the vocabulary to the sums of some rows. `targets_N1` count from the slice's first token."""
    logits_NS = rule.logits((hidden_NW @ weight_SW.T).float())
    slope = None if rule.is_plain or sums.grad_NW is None else rule.slope(logits_NS)
    # The target's logit is taken out where it lies in this slice.
    here_N1 = (targets_N1 >= 0) & (targets_N1 < len(weight_SW))
    index_N1 = targets_N1.clamp(0, len(weight_SW) - 1)
    found_N1 = logits_NS.gather(1, index_N1)
    sums.score_N1.copy_(torch.where(here_N1, found_N1, sums.score_N1))
    top_N1 = torch.maximum(sums.top_N1, logits_NS.amax(-1, keepdim=True))
    logits_NS.scatter_(1, index_N1, torch.where(here_N1, -torch.inf, found_N1))
    # From here on in place: the logits turn into weights, and no second [N, S] is made.
    weights_NS = logits_NS.sub_(top_N1).exp_()
    scale_N1 = (sums.top_N1 - top_N1).exp_()
    sums.rest_N1.mul_(scale_N1).add_(weights_NS.sum(-1, keepdim=True))
    if sums.grad_NW is not None:
        # The sums above are of the weights alone; a gradient goes through the family's rule.
        _add_product(sums.grad_NW.mul_(scale_N1), weights_NS if slope is None else weights_NS.mul_(slope), weight_SW)
    sums.top_N1.copy_(top_N1)


def _add_product(grad_NW: torch.Tensor, weights_NS: torch.Tensor, weight_SW: torch.Tensor) -> None:
    if weight_SW.dtype == grad_NW.dtype:
        grad_NW.addmm_(weights_NS, weight_SW)
    else:  # 16 bits: the product is rounded, the sum over slices is not
        grad_NW.add_(weights_NS.to(weight_SW.dtype) @ weight_SW)


def _finish(
    sums: RunningSums, weight_VW: torch.Tensor, targets_N: torch.Tensor, dtype: torch.dtype, rule: LogitRule
) -> tuple[torch.Tensor, torch.Tensor | None]:
    none_N1 = targets_N[:, None] < 0
    own_N1 = (sums.score_N1 - sums.top_N1).exp_()
    total_N1 = sums.rest_N1 + own_N1
    losses_N1 = (total_N1.log() + (sums.top_N1 - sums.score_N1)).masked_fill_(none_N1, 0)
    if sums.grad_NW is None:
        return losses_N1[:, 0], None
    # d loss / d logits = softmax - one-hot, and softmax - 1 of the target is minus the share of all others
    target_NW = weight_VW[targets_N.clamp(min=0)].float()
    rest_N1 = sums.rest_N1 * rule.slope(sums.score_N1)
    grad_NW = sums.grad_NW.addcmul_(target_NW, rest_N1, value=-1).div_(total_N1).masked_fill_(none_N1, 0)
    return losses_N1[:, 0], grad_NW.to(dtype)
