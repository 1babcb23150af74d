"""Attention inside the documents of packed rows, given to Transformers as an attention implementation of a name.

No mask is made and none is read: a block of queries begins at its first document. What computes it is the layers' parts'
(`parts.py`). Shapes: T tokens, H heads, G of them to a key, D head dimension."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn

from florilegium.fast.layers.packed_rows import rows_of
from florilegium.fast.layers.parts import LayerParts

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def document_attention(
    parts: LayerParts, module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: torch.Tensor | None,
    scaling: float | None = None, dropout: float = 0.0, **options: object,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """As Transformers calls it: query [B, H, T, D], key and value [B, H / G, T, D], to [B, T, H, D]. Raises ValueError
    for what the kernels do not make; the trial before a run finds it (`fused_layers.py`)."""
    D = query.shape[-1]
    rows = rows_of(query, query.shape[1] * D)
    if rows is None or attention_mask is not None or dropout:
        raise ValueError("the attention of packed rows was called with other rows, a mask, or dropout")
    given = [name for name in ("softcap", "s_aux", "head_mask") if options.get(name) is not None]
    if given or parts.widest_head < D or value.shape[-1] != D:
        raise ValueError(f"the attention of packed rows takes no {' or '.join(given) or 'such heads'}")
    window = options.get("sliding_window")
    window = window if isinstance(window, int) and window < rows.longest else None
    if window is not None and not parts.takes_windows:
        raise ValueError(f"documents of up to {rows.longest:,} tokens are longer than the window of {window:,}")
    # D**-0.5 is the parts' own; Gemma and Granite have factors of their own
    factor = 1.0 if scaling is None else scaling * D**0.5
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (query, key, value))
    out = parts.attend(q if abs(factor - 1) < 1e-6 else q * factor, k, v, rows, window)
    return out.view(query.shape[0], -1, *out.shape[1:]), None


@contextlib.contextmanager
def attending(config: PretrainedConfig, parts: LayerParts) -> Iterator[None]:
    """Inside, the model of this config attends by `document_attention`, and makes no mask."""
    from transformers import AttentionInterface

    # again each time: a dictionary's entry, and nobody has to know who came first
    AttentionInterface.register(parts.attention_name, partial(document_attention, parts))
    # each attention module reads it from its config as it is called, and so does what would make the masks
    owners = {"": config, **{name: getattr(config, name) for name in config.sub_configs if getattr(config, name, None)}}
    before = {name: part._attn_implementation for name, part in owners.items()}
    config._attn_implementation = parts.attention_name  # of its sub-configs too
    try:
        yield
    finally:
        config._attn_implementation = before
