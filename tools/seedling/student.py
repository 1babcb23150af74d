"""The student: a small `BloomForCausalLM`, and a forward pass over its own modules that is made for training.

Stock BLOOM adds an absolute position bias in the scores' precision and cannot keep packed documents apart. Here the
bias is relative (`slope * (key - query)`, the same after softmax), minus infinity outside the query's document, built
once a batch and handed to `scaled_dot_product_attention`. In fp32 and for one document it equals the stock forward
(there is a test).

The residual stream stays fp32, the matrix products run in `dtype`.

    B rows   T tokens   D hidden size   H heads   E head size   V vocabulary
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn import functional as F

from .tokenizer import END, VOCABULARY

PAD = 3


def new_student(vocabulary: int = VOCABULARY, hidden: int = 320, heads: int = 5, layers: int = 7) -> Any:
    from transformers import BloomConfig, BloomForCausalLM

    config = BloomConfig(
        vocab_size=vocabulary, hidden_size=hidden, n_head=heads, n_layer=layers, hidden_dropout=0.0, attention_dropout=0.0,
        bos_token_id=1, eos_token_id=END, pad_token_id=PAD, unk_token_id=0, seq_length=2048, use_cache=True,
    )  # fmt: skip
    return BloomForCausalLM(config)


def slopes(heads: int) -> list[float]:
    """ALiBi's slopes (Press et al. 2022): a geometric series; what a power of two lacks comes from the next one's odd
    terms."""
    power = 2 ** math.floor(math.log2(heads))
    first = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    return first + [2 ** (-8 * (2 * i + 1) / (2 * power)) for i in range(heads - power)]


def document_bias(
    tokens_BT: torch.Tensor, slopes_H: torch.Tensor, dtype: torch.dtype, hide_BT: torch.Tensor | None = None
) -> torch.Tensor:
    """`[B, H, T, T]`: ALiBi inside a document, minus infinity elsewhere. A document begins at its `</s>`, or behind it
    where `hide_BT` says so."""
    is_end_BT = tokens_BT == END
    document_BT = is_end_BT.cumsum(1)
    if hide_BT is not None:
        document_BT = document_BT - (is_end_BT & hide_BT).long()
    position_T = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
    distance_TT = position_T[None, :] - position_T[:, None]  # key - query
    allowed_BTT = (document_BT[:, :, None] == document_BT[:, None, :]) & (distance_TT <= 0)
    bias_HTT = slopes_H[:, None, None] * distance_TT
    return torch.where(allowed_BTT[:, None], bias_HTT, float("-inf")).to(dtype)


BLOCK_PARTS = (
    "input_layernorm", "self_attention.query_key_value", "self_attention.dense",
    "post_attention_layernorm", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h",
)  # fmt: skip
Parts = tuple[tuple[torch.Tensor, torch.Tensor], ...]  # weight and bias of each of `BLOCK_PARTS`


def block_parts(layer: Any) -> Parts:
    modules = [layer.get_submodule(name) for name in BLOCK_PARTS]
    return tuple((module.weight, module.bias) for module in modules)


def block_forward(parts: Parts, hidden_BTD: torch.Tensor, bias_BHTT: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """One `BloomBlock`. It takes tensors, not the module, so that one compiled version serves all blocks."""
    norm, query_key_value, dense, norm_mlp, wider, narrower = parts

    def linear(part: tuple[torch.Tensor, torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
        return F.linear(inputs.to(dtype), part[0].to(dtype), part[1].to(dtype))

    B, T, D = hidden_BTD.shape
    H = bias_BHTT.shape[1]
    fused = linear(query_key_value, F.layer_norm(hidden_BTD, (D,), *norm)).view(B, T, H, 3, D // H)
    query, key, value = (fused[:, :, :, i].transpose(1, 2) for i in range(3))
    mix_BTD = F.scaled_dot_product_attention(query, key, value, attn_mask=bias_BHTT).transpose(1, 2).reshape(B, T, D)
    hidden_BTD = hidden_BTD + linear(dense, mix_BTD)
    wide = F.gelu(linear(wider, F.layer_norm(hidden_BTD, (D,), *norm_mlp)), approximate="tanh")
    return hidden_BTD + linear(narrower, wide)


def head_loss(
    hidden_BTD: torch.Tensor, norm: tuple[torch.Tensor, torch.Tensor], embedding_VD: torch.Tensor, targets_BT: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:  # fmt: skip
    """Mean cross-entropy in nats over the targets that are not padding."""
    logits_NV = (
        F.linear(F.layer_norm(hidden_BTD, hidden_BTD.shape[-1:], *norm).to(dtype), embedding_VD.to(dtype))
        .flatten(0, 1)
        .float()
    )
    return F.cross_entropy(logits_NV, targets_BT.flatten(), ignore_index=PAD)


class TrainingForward:
    """`(rows [B, T + 1]) -> loss` over a `BloomForCausalLM`'s own parameters; compiled block by block on a GPU."""

    def __init__(self, model: Any, dtype: torch.dtype):
        self.body, self.dtype = model.transformer, dtype
        device = self.body.word_embeddings.weight.device
        self.slopes_H = torch.tensor(slopes(model.config.n_head), device=device)

        def ready(function: Any) -> Any:
            return torch.compile(function, dynamic=False) if device.type == "cuda" else function

        self._bias, self._block, self._loss = ready(document_bias), ready(block_forward), ready(head_loss)

    def __call__(self, rows_BT1: torch.Tensor, hide_BT: torch.Tensor | None = None) -> torch.Tensor:
        tokens_BT, targets_BT = rows_BT1[:, :-1], rows_BT1[:, 1:]
        bias_BHTT = self._bias(tokens_BT, self.slopes_H, self.dtype, hide_BT)
        hidden_BTD = self.body.word_embeddings_layernorm(self.body.word_embeddings(tokens_BT))
        for layer in self.body.h:
            hidden_BTD = self._block(block_parts(layer), hidden_BTD, bias_BHTT, self.dtype)
        norm = (self.body.ln_f.weight, self.body.ln_f.bias)
        loss: torch.Tensor = self._loss(hidden_BTD, norm, self.body.word_embeddings.weight, targets_BT, self.dtype)
        return loss
