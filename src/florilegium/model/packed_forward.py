"""The forward pass over packed rows: the model's own modules, with an attention that stays inside each document.

Stock BLOOM takes no `position_ids` and no document mask: given packed rows it lets every quote read the ones before it,
and says nothing. So the modules of a family that packs are called here (`families/`: embedding, blocks, last norm,
whatever PEFT or bitsandbytes made of them), and only the attention is ours (`reference/attention.py`). Stock BLOOM in
float32 on each quote alone is its oracle: same hidden states, same loss, same gradients. Other models go through their
own forward pass, one quote a row, padded (`PackPlan.separate`).

    hidden_BTW = hidden_states(base, model, batch)          the last layer's output
    losses_N, part_N = token_losses(base, model, batch)     one loss for each learned token

Shapes: B rows, T tokens, H heads, D head dimension, W = H * D width, N learned tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from florilegium.model import fast_paths as paths
from florilegium.model.base import Base
from florilegium.model.families import head_weight, packs
from florilegium.model.families.other import padded_hidden_states
from florilegium.tokens import Batch


@dataclass(frozen=True)
class Walk:
    """How the forward pass runs: the fast paths' names, whether blocks are recomputed in the backward pass, NEFTune's
    noise."""

    fast: tuple[str, ...] = ()
    lean: bool = False
    neftune_alpha: float | None = None


PLAIN = Walk()


def token_losses(base: Base, model: Any, batch: Batch, walk: Walk = PLAIN) -> torch.Tensor:
    """The negative log-likelihood, float32 [N], of each learned token of `batch` in reading order; differentiable in
    the adapter. A bucketed batch has places without a target too, and their losses are 0."""
    hidden_BTW = hidden_states(base, model, batch, walk)
    losses = paths.losses(walk.fast)
    hidden_NW, targets_N = hidden_BTW.flatten(0, 1), batch.targets_BT.flatten()
    if len(batch.learned_N) < len(targets_N):  # else they are all places in order, and a gather's gradient is slow
        hidden_NW, targets_N = hidden_NW.index_select(0, batch.learned_N), targets_N.index_select(0, batch.learned_N)
    return losses(hidden_NW, head_weight(model), targets_N)


def hidden_states(base: Base, model: Any, batch: Batch, walk: Walk = PLAIN) -> torch.Tensor:
    """The last layer's normed output [B, T, W], in the base's compute dtype. `model` is the base's model or PEFT's
    wrapping of it."""
    family = base.family
    if not packs(family):
        return padded_hidden_states(model, batch)
    trunk = family.backbone(model).__dict__.get("trunk") if "fused-blocks" in walk.fast else None
    hidden_BTW = family.embed(model, batch.tokens_BT, torch.float32 if trunk else base.compute_dtype)
    if walk.neftune_alpha and model.training:
        hidden_BTW = _add_noise(hidden_BTW, batch, walk.neftune_alpha)
    if trunk is not None:
        return _through(trunk, hidden_BTW, batch, model.training)
    slopes_H = family.alibi_slopes(model, hidden_BTW.device)
    attend = paths.attention(walk.fast, batch.document_BT, slopes_H, hidden_BTW.dtype)
    for block in family.blocks(model):
        if walk.lean and torch.is_grad_enabled():
            hidden_BTW = checkpoint(family.apply_block, block, hidden_BTW, attend, use_reentrant=False)
        else:
            hidden_BTW = family.apply_block(block, hidden_BTW, attend)
    return family.final_norm(model, hidden_BTW)


def _through(trunk: Any, embedded_BTW: torch.Tensor, batch: Batch, training: bool) -> torch.Tensor:
    """The blocks by hand (`block_stack.py`), which reads all rows as one: documents do not cross them."""
    index_T = torch.arange(batch.tokens_BT.numel(), dtype=torch.int32, device=embedded_BTW.device)
    start_T, end_T = index_T - batch.position_BT.flatten(), index_T + batch.remaining_BT.flatten()
    seed = batch.seed_1 if training else None
    hidden_TW: torch.Tensor = trunk(embedded_BTW.flatten(0, 1), start_T, end_T, seed)
    return hidden_TW.view(embedded_BTW.shape)


def _add_noise(hidden_BTW: torch.Tensor, batch: Batch, alpha: float) -> torch.Tensor:
    """NEFTune (Jain et al. 2023, arXiv:2310.05914): uniform noise of size alpha / sqrt(length * width) on each
    document's embeddings."""
    document_BT = batch.document_BT
    same_BTT = document_BT[:, :, None] == document_BT[:, None, :]
    length_BT1 = same_BTT.sum(-1, keepdim=True)
    size = alpha / (length_BT1 * hidden_BTW.shape[-1]).sqrt()
    return hidden_BTW + (torch.empty_like(hidden_BTW).uniform_(-1, 1) * size).to(hidden_BTW.dtype)
