"""What a block saves for its backward pass, and the plan that says how much of it (`memory_plan.py` makes it).

Bytes a token and block in bfloat16, at W = 4096 and 32 heads:

    SavedActivations               20 W + 4 H    80 kB    nothing is recomputed (8 W more with LoRA on `down`)
    SavedInputs, with both          4 W          16 kB    qkv, attention and the MLP's first half: 7/12 of a forward pass
    SavedInputs, the input alone    2 W           8 kB    `dense` too

Shapes: T packed tokens, W width, H heads, F = 4W."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

ALL_BLOCKS = 10**6  # more than any model has: a plan need not know how many


@dataclass(frozen=True)
class ActivationPlan:
    """How much memory the block stack may use: blocks that keep all activations, blocks that keep input and second
    residual (the rest keep their input), blocks whose weights are kept in bfloat16. Counted from the first block."""

    blocks_full: int = ALL_BLOCKS
    blocks_partial: int = ALL_BLOCKS
    blocks_bf16: int = 0


class LoraXAt(NamedTuple):
    """The adapter's x A^T of each linear of a block, [T, rank]; None where it has no adapter."""

    qkv: torch.Tensor | None
    dense: torch.Tensor | None
    up: torch.Tensor | None
    down: torch.Tensor | None


@dataclass
class SavedActivations:
    """What a block's backward pass reads. [T, W] each, but qkv (whose query is q': `attention_kernel.py`) [T, 3W],
    gelu_slope_or_input (`Matmuls.forward_gelu`) and active [T, F], logsumexp [H, T]. The columns of the context and of
    `active` lie as the linears that read them want them (`QuantizedLinear.column_order`), in rows that may be wider."""

    input: torch.Tensor
    post_attention_residual: torch.Tensor
    qkv: torch.Tensor
    context: torch.Tensor
    logsumexp: torch.Tensor  # in place of the probabilities, [H, T, T]
    gelu_slope_or_input: torch.Tensor  # the slope where the matmul made it on the way, else the raw product
    active: torch.Tensor | None  # GELU's output, for the gradient of the A of `down`
    lora_x_at: LoraXAt


@dataclass(frozen=True)
class SavedInputs:
    """What is left of them where the plan says so: the rest is recomputed; None: the second residual too."""

    input: torch.Tensor
    post_attention_residual: torch.Tensor | None


Saved = SavedActivations | SavedInputs
