"""What the kernels read of Transformers' BLOOM, with bitsandbytes' weights and PEFT's LoRA in it: its modules'
attributes, as Protocols.

BloomModel itself does not say what a linear became when it was quantised or wrapped, and bitsandbytes is untyped. What
is not listed here is not relied on (docs/kernels/compatibility.md)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import nn

FIRST_LINEAR = "query_key_value"  # of a block: the one that runs first


class QuantState(Protocol):
    """bitsandbytes' description of a 4-bit weight: `nested` where its scales are quantised too, by `state2`."""

    shape: torch.Size
    absmax: torch.Tensor
    code: torch.Tensor
    blocksize: int
    quant_type: str
    nested: bool
    offset: torch.Tensor
    state2: Any  # a QuantState, or None


class Linear(Protocol):
    """A linear of torch, or bitsandbytes' Linear8bitLt or Linear4bit."""

    in_features: int
    out_features: int
    weight: Any  # a Parameter, with CB and SCB (int8) or quant_state (NF4) on it
    bias: torch.Tensor | None
    state: Any  # bitsandbytes' MatmulLtState, of int8 alone


class QuantizedLinearModule(Linear, Protocol):
    """bitsandbytes' Linear8bitLt or Linear4bit as a module."""

    def init_8bit_state(self) -> None: ...  # of int8 alone


class LoraLayer(Protocol):
    """PEFT's LoRA around a linear."""

    base_layer: Linear
    disable_adapters: bool
    merged: bool
    active_adapters: Sequence[str]
    lora_A: Mapping[str, nn.Linear]
    lora_B: Mapping[str, nn.Linear]
    lora_dropout: Mapping[str, nn.Module]
    scaling: Mapping[str, float]
    r: Mapping[str, int]


class Attention(Protocol):
    query_key_value: Linear | LoraLayer
    dense: Linear | LoraLayer
    hidden_dropout: float


class Mlp(Protocol):
    dense_h_to_4h: Linear | LoraLayer
    dense_4h_to_h: Linear | LoraLayer


class Block(Protocol):
    input_layernorm: nn.LayerNorm
    self_attention: Attention
    post_attention_layernorm: nn.LayerNorm
    mlp: Mlp
    hidden_dropout: float
    apply_residual_connection_post_layernorm: bool


class Bloom(Protocol):
    """BloomModel."""

    h: Iterable[Block]
    ln_f: nn.LayerNorm
    word_embeddings: nn.Embedding
    word_embeddings_layernorm: nn.LayerNorm
    embed_dim: int
    num_heads: int

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]: ...


@dataclass(frozen=True)
class Lora:
    """PEFT's LoRA on a linear. `A_RK` and `B_NR` are the live float32 parameters."""

    A_RK: torch.Tensor
    B_NR: torch.Tensor
    scaling: float
    dropout: float


def blocks_of(bloom: Bloom, held: range | None = None) -> list[Block]:
    """The blocks of these numbers; None: all. Where several processes hold a model together, the others' are there in
    outline alone, on the meta device."""
    blocks = list(bloom.h)
    return blocks if held is None else blocks[held.start : held.stop]


def lora_layer(layer: Linear | LoraLayer) -> LoraLayer | None:
    """The layer as PEFT's, or None where it is a bare linear."""
    # By its attribute: the class is PEFT's, which a base without an adapter need not import.
    return cast(LoraLayer, layer) if hasattr(layer, "base_layer") else None


def lora_of(layer: Linear | LoraLayer) -> Lora | None:
    """PEFT's LoRA on this layer, or None where there is none or it is disabled (`support.py` refused all other)."""
    found = lora_layer(layer)
    if found is None or found.disable_adapters:
        return None
    (name,) = found.active_adapters
    dropout = float(getattr(found.lora_dropout[name], "p", 0.0))  # PEFT has an Identity there for 0
    return Lora(found.lora_A[name].weight, found.lora_B[name].weight, float(found.scaling[name]), dropout)


def base_linear(layer: Linear | LoraLayer) -> Linear:
    """The linear as the base has it, without the adapter."""
    lora = lora_layer(layer)
    return cast(Linear, layer) if lora is None else lora.base_layer


def row_absmax(module: Linear) -> torch.Tensor:
    """The largest weight of each row of an int8 linear of bitsandbytes, which its codes are 127ths of."""
    # bitsandbytes moves it from the parameter to the module's state at the first forward of its own
    found: torch.Tensor = module.weight.SCB if module.weight.SCB is not None else module.state.SCB
    return found


def wrapped_linears(block: Block) -> tuple[Linear | LoraLayer, ...]:
    """The four linears of a block as they are, with or without an adapter: qkv, dense, up, down."""
    attention, mlp = block.self_attention, block.mlp
    return attention.query_key_value, attention.dense, mlp.dense_h_to_4h, mlp.dense_4h_to_h


def linears(block: Block) -> tuple[Linear, Linear, Linear, Linear]:
    """The same without the adapter."""
    qkv, dense, up, down = map(base_linear, wrapped_linears(block))
    return qkv, dense, up, down
