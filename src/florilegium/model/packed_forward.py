"""The forward pass over packed rows: the model's own modules, with an attention that stays inside each document.

Stock BLOOM takes no `position_ids` and no document mask: given packed rows it lets every quote read the ones before it,
and says nothing. So the modules of a family that packs are called here (`families/`: embedding, blocks, last norm,
whatever PEFT or bitsandbytes made of them), and only the attention is ours (`reference/attention.py`). Stock BLOOM in
float32 on each quote alone is its oracle: same hidden states, same loss, same gradients. Other models go through their
own forward pass, on packed rows where that was seen to keep documents apart (`document_packing.py`), else one quote a
row, padded (`PackPlan.separate`).

    hidden_BTW = hidden_states(loaded, batch)     the last layer's output
    losses_N = token_losses(loaded, batch)        one loss for each target
    hidden_BTW = stage_output(loaded, batch)      the first blocks' output, where others hold the rest (`stage.py`)

Shapes: B rows, T tokens, H heads, D head dimension, W = H * D width, N targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from florilegium.model import fast_paths
from florilegium.model.families import PackedFamily, head_weight, packs
from florilegium.model.families.other import packed_hidden_states, padded_hidden_states
from florilegium.model.kernel_protocols import BlockStack
from florilegium.model.loaded import PLAIN, ForwardOptions, LoadedModel
from florilegium.model.noise import add_noise, noise_of
from florilegium.tokens import Batch


def token_losses(loaded: LoadedModel, batch: Batch, options: ForwardOptions = PLAIN) -> torch.Tensor:
    """The negative log-likelihood, float32 [N], of each target of `batch` in reading order; differentiable in the
    adapter. A bucketed batch has places without a target too, and their losses are 0."""
    return _losses(loaded, hidden_states(loaded, batch, options), batch, options)


def _losses(loaded: LoadedModel, hidden_BTW: torch.Tensor, batch: Batch, options: ForwardOptions) -> torch.Tensor:
    hidden_NW, targets_N = hidden_BTW.flatten(0, 1), batch.targets_BT.flatten()
    index_N = batch.target_index_N
    if len(index_N) < len(targets_N):  # else they are all places in order, and a gather's gradient is slow
        hidden_NW, targets_N = hidden_NW.index_select(0, index_N), targets_N.index_select(0, index_N)
    # The head is frozen: its weight goes in as it is, and no gradient of [V, W] is ever made.
    losses = fast_paths.head_losses(options.kernels)
    return losses(hidden_NW, head_weight(loaded.model), targets_N, rule=loaded.logit_rule)


def hidden_states(loaded: LoadedModel, batch: Batch, options: ForwardOptions = PLAIN) -> torch.Tensor:
    """The last layer's normed output [B, T, W], in the base's compute dtype."""
    family, model = loaded.family, loaded.model
    if options.fused_layers is not None:
        with options.fused_layers.through(batch, training=model.training):
            return options.fused_layers(batch)
    if not packs(family):
        with noise_of(batch):
            if batch.one_a_row:
                return padded_hidden_states(model, batch)  # nothing to keep apart
            assert options.document_mask, (
                "rows of many documents were given to a model that reads from one into the next"
            )
            return packed_hidden_states(model, batch, options.document_mask)
    hidden_BTW = _embedded(loaded, family, batch, options)
    if options.block_stack is not None:
        return _fused(options.block_stack, hidden_BTW, batch, model.training)
    hidden_BTW = _through(family.blocks(model), loaded, family, hidden_BTW, batch, options)
    return family.final_norm(model, hidden_BTW).to(loaded.base.compute_dtype)


def stage_output(
    loaded: LoadedModel, batch: Batch, options: ForwardOptions = PLAIN, hidden_BTW: torch.Tensor | None = None
) -> torch.Tensor:
    """What a pipeline's stage makes of `batch`: the residual stream [B, T, W] after its last block, in `residual_dtype`,
    or, where it has the head, `token_losses`. `hidden_BTW` is the stage before's; None: this is the first."""
    family, stage = loaded.family, loaded.base.stage
    assert stage is not None and packs(family), "the plan of the pipeline refuses others"
    if hidden_BTW is None:  # tokens are everybody's, the embedding is here
        hidden_BTW = _embedded(loaded, family, batch, options)
    if options.block_stack is not None:
        hidden_BTW = _fused(options.block_stack, hidden_BTW, batch, loaded.model.training)
        return _losses(loaded, hidden_BTW, batch, options) if stage.has_head else hidden_BTW
    # Those of others are on the meta device: they have names and shapes, and are never called.
    blocks = list(family.blocks(loaded.model))[stage.first : stage.last]
    hidden_BTW = _through(blocks, loaded, family, hidden_BTW, batch, options)
    if not stage.has_head:
        return hidden_BTW  # not normed: the next block reads the residual stream
    normed_BTW = family.final_norm(loaded.model, hidden_BTW).to(loaded.base.compute_dtype)
    return _losses(loaded, normed_BTW, batch, options)


def residual_dtype(loaded: LoadedModel, options: ForwardOptions = PLAIN) -> torch.dtype:
    """Of the residual stream between the blocks, and of what a stage sends to the next."""
    # The fused blocks keep it in more than 16 bits (`norm_kernel.py`), from the embedding on.
    # float16 ends at 65,504, which a residual stream may pass, so there it is float32 between the matmuls too.
    compute = loaded.base.compute_dtype
    return torch.float32 if options.block_stack is not None or compute == torch.float16 else compute


def _embedded(loaded: LoadedModel, family: PackedFamily, batch: Batch, options: ForwardOptions) -> torch.Tensor:
    # NEFTune is noise of training alone: an evaluation in between must not see it.
    alpha = options.neftune_alpha if loaded.model.training else None
    noise = partial(add_noise, batch=batch, alpha=alpha) if alpha else None
    return family.embed(loaded.model, batch.tokens_BT, residual_dtype(loaded, options), noise)


def _through(
    blocks: Sequence[nn.Module],
    loaded: LoadedModel,
    family: PackedFamily,
    hidden_BTW: torch.Tensor,
    batch: Batch,
    options: ForwardOptions,
) -> torch.Tensor:
    """The residual stream after these blocks."""
    compute = loaded.base.compute_dtype
    # One mask for all blocks: it depends on the documents, not on the layer.
    slopes_H = family.alibi_slopes(loaded.model, hidden_BTW.device)
    head_dim = hidden_BTW.shape[-1] // len(slopes_H)
    attend = fast_paths.attention(options.kernels, batch.document_BT, slopes_H, compute, head_dim)
    for block in blocks:
        if options.recompute and torch.is_grad_enabled():
            # Not reentrant: the embedding needs no gradient, and the reentrant form would then give the adapter none.
            hidden_BTW = checkpoint(family.apply_block, block, hidden_BTW, attend, compute, use_reentrant=False)
        else:
            hidden_BTW = family.apply_block(block, hidden_BTW, attend, compute)
    return hidden_BTW


def _fused(stack: BlockStack, stream_BTW: torch.Tensor, batch: Batch, training: bool) -> torch.Tensor:
    """The blocks by hand, which read all rows as one: documents do not cross them."""
    # Rows laid end to end; a token's document begins `position` tokens before it and ends `remaining` after it.
    index_T = torch.arange(batch.tokens_BT.numel(), dtype=torch.int32, device=stream_BTW.device)
    start_T, end_T = index_T - batch.position_BT.flatten(), index_T + batch.remaining_BT.flatten()
    # An evaluation gets no seed, so the adapter drops nothing.
    number_T, seed = batch.number_BT.flatten(), batch.seed_1 if training else None
    hidden_TW = stack(stream_BTW.flatten(0, 1), start_T, end_T, number_T, seed)
    return hidden_TW.view(stream_BTW.shape)
