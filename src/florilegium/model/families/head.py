"""The head of a causal LM: its weights, and what the family makes of its scores.

The loss reads both by themselves, a chunk of rows at a time, so that no more logits exist; whether they give this
model's logits is tried once on a few tokens before anything is trained (`head_unsupported`)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch

from florilegium.model.families.base import inner_model
from florilegium.reference import AS_THEY_ARE, LogitRule, head_logits

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from florilegium.model.families.base import AnyModel, Family

# By the names that Transformers' configs have for them.
FACTORS: dict[str, Callable[[float], float]] = {
    "logit_scale": lambda value: value,  # Cohere
    "logits_scaling": lambda value: 1 / value,  # Granite
    "lm_head_multiplier": lambda value: value,  # Falcon-H1
}
CAPS = ("final_logit_softcapping", "logits_soft_cap")  # Gemma 2 and 3; RecurrentGemma
NEAR = 0.02  # of the largest logit: bfloat16 rounds a logit by 0.004 of itself, and what it was made of by as much


def head_weight(model: AnyModel) -> torch.Tensor:
    """The output embedding [V, W]."""
    weight: torch.Tensor = inner_model(model).get_output_embeddings().weight
    return weight


def logit_rule(family: Family, model: AnyModel) -> LogitRule:
    """What the head's scores go through before they are logits. A family that packs leaves them as they are."""
    if family.packs:
        return AS_THEY_ARE
    inner = inner_model(model)
    config, head = inner.config.get_text_config(), inner.get_output_embeddings()
    scale = 1.0
    for name, factor in FACTORS.items():
        scale *= factor(value) if (value := _number(config, name)) else 1.0
    cap = next((value for name in CAPS if (value := _number(config, name))), None)
    bias_V = getattr(head, "bias", None)
    return LogitRule(None if bias_V is None else bias_V.detach(), scale, cap)


@contextlib.contextmanager
def without_dropout(model: AnyModel) -> Iterator[None]:
    """Inside, the model draws nothing; then it is as it was."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _number(config: PretrainedConfig, name: str) -> float | None:
    value = getattr(config, name, None)
    return float(value) if isinstance(value, (int, float)) else None


def head_unsupported(family: Family, model: AnyModel) -> str:
    """Why weights and rule would not give this model's logits, or an empty string."""
    if family.packs:
        return ""
    inner = inner_model(model)
    if getattr(inner.get_output_embeddings(), "weight", None) is None:
        return "its head is not a plain matrix"
    tokens_BT = torch.arange(1, 6, device=inner.device)[None] % len(head_weight(model))
    with torch.inference_mode(), without_dropout(model):
        stock_TV = inner(input_ids=tokens_BT, use_cache=False).logits[0].float()
        hidden_TW = family.backbone(model)(input_ids=tokens_BT, use_cache=False).last_hidden_state[0]
        ours_TV = head_logits(hidden_TW, head_weight(model), logit_rule(family, model))
    if stock_TV.shape == ours_TV.shape and (ours_TV - stock_TV).abs().max() <= NEAR * stock_TV.abs().max():
        return ""
    return "its logits are not what its head and its config.json make of the last hidden state"
