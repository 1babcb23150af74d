"""The forward pass over packed rows: a walk over BLOOM's own modules, with an attention that stays inside each quote.

Stock BLOOM takes no `position_ids` and no document mask: given packed rows it lets every quote read the ones before it,
and says nothing. So the walk calls BLOOM's modules itself (embedding, norms, the four linears of each block, whatever
PEFT or bitsandbytes made of them) and only the attention is ours (`plain/attention.py`). Stock BLOOM in float32 on each
quote alone is its oracle: same hidden states, same loss, same gradients. Other models go through their own forward
pass, one quote a row, padded (`PackPlan.separate`).

    hidden_BTW = hidden_states(base, model, batch)          the last layer's output
    losses_N, part_N = token_losses(base, model, batch)     one loss for each learned token

Shapes: B rows, T tokens, H heads, D head dimension, W = H * D width, N learned tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from florilegium import reference as plain
from florilegium.model import fast_paths as paths
from florilegium.model.base import Base
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
    if not base.packs:
        return _stock_hidden_states(model, batch)
    bloom = transformer(model)
    trunk = bloom.__dict__.get("trunk") if "fused-blocks" in walk.fast else None
    hidden_BTW = embed(bloom, batch.tokens_BT, torch.float32 if trunk else base.compute_dtype)
    if walk.neftune_alpha and model.training:
        hidden_BTW = _add_noise(hidden_BTW, batch, walk.neftune_alpha)
    if trunk is not None:
        return _through(trunk, hidden_BTW, batch, model.training)
    slopes_H = plain.alibi_slopes(bloom.num_heads, hidden_BTW.device)
    attend = paths.attention(walk.fast, batch.document_BT, slopes_H, hidden_BTW.dtype)
    for layer in bloom.h:
        if walk.lean and torch.is_grad_enabled():
            hidden_BTW = checkpoint(block, layer, hidden_BTW, attend, use_reentrant=False)
        else:
            hidden_BTW = block(layer, hidden_BTW, attend)
    return norm(bloom.ln_f, hidden_BTW)


def _through(trunk: Any, embedded_BTW: torch.Tensor, batch: Batch, training: bool) -> torch.Tensor:
    """The blocks by hand (`block_stack.py`), which reads all rows as one: documents do not cross them."""
    index_T = torch.arange(batch.tokens_BT.numel(), dtype=torch.int32, device=embedded_BTW.device)
    start_T, end_T = index_T - batch.position_BT.flatten(), index_T + batch.remaining_BT.flatten()
    seed = batch.seed_1 if training else None
    hidden_TW: torch.Tensor = trunk(embedded_BTW.flatten(0, 1), start_T, end_T, seed)
    return hidden_TW.view(embedded_BTW.shape)


def transformer(model: Any) -> Any:
    """The BloomModel inside a BloomForCausalLM, with or without PEFT around it."""
    return (model.get_base_model() if hasattr(model, "get_base_model") else model).transformer


def head_weight(model: Any) -> torch.Tensor:
    """The output embedding [V, W]."""
    weight: torch.Tensor = model.get_output_embeddings().weight
    return weight


def embed(bloom: Any, tokens_BT: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return norm(bloom.word_embeddings_layernorm, bloom.word_embeddings(tokens_BT).to(dtype))


def block(layer: Any, hidden_BTW: torch.Tensor, attend: plain.Attend) -> torch.Tensor:
    """One BloomBlock. `attend` holds the batch's mask; all else is the block's own modules."""
    normed_BTW = norm(layer.input_layernorm, hidden_BTW)
    residual_BTW = normed_BTW if layer.apply_residual_connection_post_layernorm else hidden_BTW
    query, key, value = split_heads(layer.self_attention, normed_BTW)
    context_BHTD = attend(query, key, value)
    context_BTW = context_BHTD.transpose(1, 2).reshape(hidden_BTW.shape)
    hidden_BTW = residual_BTW + _dropped(layer, layer.self_attention.dense(context_BTW))
    normed_BTW = norm(layer.post_attention_layernorm, hidden_BTW)
    residual_BTW = normed_BTW if layer.apply_residual_connection_post_layernorm else hidden_BTW
    return residual_BTW + _dropped(layer, mlp(layer.mlp, normed_BTW))


def split_heads(attention: Any, normed_BTW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Query, key and value, each [B, H, T, D]. BLOOM's fused projection holds them head by head."""
    B, T, _ = normed_BTW.shape
    fused = attention.query_key_value(normed_BTW).view(B, T, attention.num_heads, 3, attention.head_dim)
    query, key, value = fused.permute(3, 0, 2, 1, 4)
    return query, key, value


def mlp(module: Any, normed_BTW: torch.Tensor) -> torch.Tensor:
    # BLOOM's GELU is the tanh form, written out in its code with a backward pass of its own; this is the same function,
    # fused.
    out: torch.Tensor = module.dense_4h_to_h(F.gelu(module.dense_h_to_4h(normed_BTW), approximate="tanh"))
    return out


def norm(module: Any, hidden: torch.Tensor) -> torch.Tensor:
    """A LayerNorm whose stored dtype may differ from the one computed in."""
    weight, bias = module.weight.to(hidden.dtype), module.bias.to(hidden.dtype)
    return F.layer_norm(hidden, module.normalized_shape, weight, bias, module.eps)


def _dropped(layer: Any, hidden: torch.Tensor) -> torch.Tensor:
    return F.dropout(hidden, layer.hidden_dropout, layer.training) if layer.hidden_dropout else hidden


def _add_noise(hidden_BTW: torch.Tensor, batch: Batch, alpha: float) -> torch.Tensor:
    """NEFTune (Jain et al. 2023, arXiv:2310.05914): uniform noise of size alpha / sqrt(length * width) on each
    document's embeddings."""
    document_BT = batch.document_BT
    same_BTT = document_BT[:, :, None] == document_BT[:, None, :]
    length_BT1 = same_BTT.sum(-1, keepdim=True)
    size = alpha / (length_BT1 * hidden_BTW.shape[-1]).sqrt()
    return hidden_BTW + (torch.empty_like(hidden_BTW).uniform_(-1, 1) * size).to(hidden_BTW.dtype)


def add_neftune(model: Any, alpha: float) -> None:
    """The same noise for a family with its own forward pass: while training, on what its embedding gives for padded
    rows."""

    def noisy(module: Any, inputs: Any, hidden_BTW: torch.Tensor) -> torch.Tensor:
        if not model.training:
            return hidden_BTW
        size = alpha / math.sqrt(hidden_BTW.shape[1] * hidden_BTW.shape[2])
        return hidden_BTW + torch.empty_like(hidden_BTW).uniform_(-size, size)

    model.get_input_embeddings().register_forward_hook(noisy)


def _stock_hidden_states(model: Any, batch: Batch) -> torch.Tensor:
    """Any other family: its own backbone on padded rows of one quote each."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    backbone = getattr(inner, inner.base_model_prefix)
    mask = (batch.document_BT >= 0).long()
    hidden: torch.Tensor = backbone(input_ids=batch.tokens_BT, attention_mask=mask, use_cache=False).last_hidden_state
    return hidden


def head_obstacle(model: Any) -> str:
    """Why `head_weight` alone would not give this model's logits, or an empty string: some families scale or cap
    them."""
    config = model.config
    for name in ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier"):
        value = getattr(config, name, None)
        if value not in (None, 1, 1.0) and not (isinstance(value, float) and math.isclose(value, 1.0)):
            return f"its logits are changed after the head ({name})"
    head = model.get_output_embeddings()
    if head is None or getattr(head, "bias", None) is not None:
        return "its head is not a plain matrix"
    return ""
