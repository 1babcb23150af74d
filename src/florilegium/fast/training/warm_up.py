"""A stack's kernels, compiled before its first step: one step on the fewest tokens, and an evaluation, run by several
threads at once.

A kernel that is left out here is compiled when a run's first step calls it, while the other cores wait."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from florilegium.fast.head_loss import chunk_losses
from florilegium.fast.parallel_compile import compile_in_parallel
from florilegium.fast.training.backward_pass import BackwardPass
from florilegium.fast.training.forward_pass import ForwardPass

if TYPE_CHECKING:
    from florilegium.fast.training.block_stack import BlockStack

WARM_UP_TOKENS = 64  # the least that every kernel takes


def warm_up(stack: BlockStack) -> None:
    """Has the kernels of a step and of an evaluation compiled at once, the loss's with them where the head is."""
    T, device = WARM_UP_TOKENS, stack.slopes_H.device
    stream_TW = torch.zeros(T, stack.bloom.embed_dim, dtype=torch.float32, device=device)
    start_T, end_T, number_T = (torch.full((T,), index, dtype=torch.int32, device=device) for index in (0, T, 0))
    seed = torch.zeros(1, dtype=torch.int64, device=device)
    with compile_in_parallel(), torch.no_grad():
        stack.fill_bf16_copies()
        # An evaluation has no dropout and saves nothing: kernels of its own.
        ForwardPass(stack, start_T, end_T, number_T, None).run(stream_TW, save=False)
        step = ForwardPass(stack, start_T, end_T, number_T, seed)
        out_TW, saved, last_TW = step.run(stream_TW, save=True)
        # what a stage in the middle gave has the dtype and shape of the gradient that comes back for it
        BackwardPass(step, wants_input_grad=stack.held.start > 0).run(out_TW, saved, last_TW)
        if stack.has_head:
            _warm_up_head(stack, out_TW)


def _warm_up_head(stack: BlockStack, hidden_TW: torch.Tensor) -> None:
    head_VW = stack.bloom.word_embeddings.weight
    if head_VW.is_meta:  # a head that is not the embedding again, which another stage holds
        return
    targets_T = torch.zeros(len(hidden_TW), dtype=torch.int64, device=hidden_TW.device)
    # An evaluation's loss makes no gradient: a kernel of its own.
    for grad_TW in (None, torch.empty_like(hidden_TW)):
        chunk_losses(hidden_TW, head_VW, targets_T, grad_TW)
