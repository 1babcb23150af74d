"""The student: a small `BloomForCausalLM`, and a forward pass over its own modules that is made for training.

Stock BLOOM adds an absolute position bias in the scores' precision and cannot keep packed documents apart. Here the
bias is relative (`slope * (key - query)`, the same after softmax), minus infinity outside the query's document. On a CPU
it is built once a batch and handed to `scaled_dot_product_attention`; on a GPU flex attention computes it in its kernel
and passes over the blocks of keys that no query of a block may see. In fp32 and for one document both equal the stock
forward (there is a test).

The residual stream stays fp32, the matrix products run in `dtype`.

    B rows   T tokens   D hidden size   H heads   E head size   V vocabulary
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from .tokenizer import END, VOCABULARY

PAD = 3


def new_student(vocabulary: int = VOCABULARY, hidden: int = 512, heads: int = 8, layers: int = 6) -> Any:
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


def documents_of(tokens_BT: torch.Tensor, hide_BT: torch.Tensor | None) -> torch.Tensor:
    """The number of each token's document, `[B, T]`. A document begins at its `</s>`, or behind it where `hide_BT` says
    so."""
    is_end_BT = tokens_BT == END
    document_BT = is_end_BT.cumsum(1)
    return document_BT if hide_BT is None else document_BT - (is_end_BT & hide_BT).long()


def document_bias(
    tokens_BT: torch.Tensor, slopes_H: torch.Tensor, dtype: torch.dtype, hide_BT: torch.Tensor | None = None
) -> torch.Tensor:
    """`[B, H, T, T]`: ALiBi inside a document, minus infinity elsewhere."""
    document_BT = documents_of(tokens_BT, hide_BT)
    position_T = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
    distance_TT = position_T[None, :] - position_T[:, None]  # key - query
    allowed_BTT = (document_BT[:, :, None] == document_BT[:, None, :]) & (distance_TT <= 0)
    bias_HTT = slopes_H[:, None, None] * distance_TT
    return torch.where(allowed_BTT[:, None], bias_HTT, float("-inf")).to(dtype)


def document_mask(tokens_BT: torch.Tensor, hide_BT: torch.Tensor | None = None) -> Any:
    """The same documents as flex attention's block mask."""
    from torch.nn.attention.flex_attention import create_block_mask

    document_BT = documents_of(tokens_BT, hide_BT)

    def allowed(row: torch.Tensor, _: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (document_BT[row, query] == document_BT[row, key]) & (key <= query)

    B, T = tokens_BT.shape
    return create_block_mask(allowed, B, None, T, T, device=str(tokens_BT.device))


def attend_densely(
    query_BHTE: torch.Tensor, key_BHTE: torch.Tensor, value_BHTE: torch.Tensor, slopes_H: torch.Tensor, bias_BHTT: Any
) -> torch.Tensor:
    return F.scaled_dot_product_attention(query_BHTE, key_BHTE, value_BHTE, attn_mask=bias_BHTT)


def attend_in_blocks(
    query_BHTE: torch.Tensor, key_BHTE: torch.Tensor, value_BHTE: torch.Tensor, slopes_H: torch.Tensor, mask: Any
) -> torch.Tensor:
    from torch.nn.attention.flex_attention import flex_attention

    def biased(
        score: torch.Tensor, _: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor
    ) -> torch.Tensor:
        return score + slopes_H[head] * (key - query)

    mixed = flex_attention(query_BHTE, key_BHTE, value_BHTE, score_mod=biased, block_mask=mask)
    assert isinstance(mixed, torch.Tensor)
    return mixed


BLOCK_PARTS = (
    "input_layernorm", "self_attention.query_key_value", "self_attention.dense",
    "post_attention_layernorm", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h",
)  # fmt: skip
Parts = tuple[tuple[torch.Tensor, torch.Tensor], ...]  # weight and bias of each of `BLOCK_PARTS`
Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, Any], torch.Tensor]


def block_parts(layer: Any) -> Parts:
    modules = [layer.get_submodule(name) for name in BLOCK_PARTS]
    return tuple((module.weight, module.bias) for module in modules)


def block_forward(
    parts: Parts, hidden_BTD: torch.Tensor, slopes_H: torch.Tensor, mask: Any, dtype: torch.dtype, attend: Attend
) -> torch.Tensor:
    """One `BloomBlock`. It takes tensors, not the module, so that one compiled version serves all blocks. `mask` is what
    `attend` takes."""
    norm, query_key_value, dense, norm_mlp, wider, narrower = parts

    def linear(part: tuple[torch.Tensor, torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
        return F.linear(inputs.to(dtype), part[0].to(dtype), part[1].to(dtype))

    B, T, D = hidden_BTD.shape
    H = len(slopes_H)
    fused = linear(query_key_value, F.layer_norm(hidden_BTD, (D,), *norm)).view(B, T, H, 3, D // H)
    query, key, value = (fused[:, :, :, i].transpose(1, 2) for i in range(3))
    mix_BTD = attend(query, key, value, slopes_H, mask).transpose(1, 2).reshape(B, T, D)
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

        self.on_gpu = device.type == "cuda"
        self._mask, self._block, self._loss = ready(document_mask), ready(block_forward), ready(head_loss)

    def __call__(self, rows_BT1: torch.Tensor, hide_BT: torch.Tensor | None = None) -> torch.Tensor:
        tokens_BT, targets_BT = rows_BT1[:, :-1], rows_BT1[:, 1:]
        mask = (
            self._mask(tokens_BT, hide_BT)
            if self.on_gpu
            else document_bias(tokens_BT, self.slopes_H, self.dtype, hide_BT)
        )
        attend = attend_in_blocks if self.on_gpu else attend_densely
        hidden_BTD = self.body.word_embeddings_layernorm(self.body.word_embeddings(tokens_BT))
        for layer in self.body.h:
            hidden_BTD = self._block(block_parts(layer), hidden_BTD, self.slopes_H, mask, self.dtype, attend)
        norm = (self.body.ln_f.weight, self.body.ln_f.bias)
        loss: torch.Tensor = self._loss(hidden_BTD, norm, self.body.word_embeddings.weight, targets_BT, self.dtype)
        return loss
