"""The oracle of the packed walk: stock BLOOM in float32 on each quote alone, with the weights that a quantised base
really holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from florilegium.model.families.bloom import bloom_model
from florilegium.tokens import Batch, Example


def rows_of(lengths: Sequence[int], *, masked: int | None = None, part: int | None = None) -> list[Example]:
    """Random rows of so many tokens and an end-of-text. Of number `masked` nothing is learned, of `part` the second
    half."""
    generator = torch.Generator().manual_seed(1)
    examples = []
    for number, size in enumerate(lengths):
        ids = [*torch.randint(4, 400, (size,), generator=generator).tolist(), 2]
        first = len(ids) if number == masked else len(ids) // 2 if number == part else 0
        examples.append(Example(ids, [place >= first for place in range(len(ids))]))
    return examples


def stock_float32(base: Any, model: Any) -> Any:
    """Stock BLOOM with PEFT's LoRA on the base's device: int8 codes and NF4 as the numbers that they stand for, and the
    same adapter."""
    from bitsandbytes.functional import dequantize_4bit
    from peft import LoraConfig, get_peft_model
    from transformers import BloomForCausalLM

    oracle = BloomForCausalLM(base.model.config).eval()
    state = {}
    for name, module in base.model.named_modules():
        weight = getattr(module, "weight", None)
        for key, parameter in module.named_parameters(recurse=False):
            state[f"{name}.{key}".replace(".base_layer", "")] = parameter.data.float()
        codes = getattr(weight, "CB", None)
        if codes is None:
            codes = getattr(getattr(module, "state", None), "CB", None)
        if codes is not None:
            scale = weight.SCB if weight.SCB is not None else module.state.SCB
            state[f"{name}.weight".replace(".base_layer", "")] = codes.float() * scale[:, None] / 127
        elif getattr(weight, "quant_state", None) is not None:
            dtype, weight.quant_state.dtype = weight.quant_state.dtype, torch.float32
            state[f"{name}.weight".replace(".base_layer", "")] = dequantize_4bit(weight.data, weight.quant_state)
            weight.quant_state.dtype = dtype
    state = {k: v for k, v in state.items() if "lora_" not in k}
    oracle.load_state_dict(state, strict=False)
    oracle.tie_weights()
    (given,) = model.peft_config.values()
    oracle = get_peft_model(
        oracle,
        LoraConfig(r=given.r, lora_alpha=given.lora_alpha, lora_dropout=0.0, target_modules=given.target_modules),
    )
    missing = oracle.load_state_dict({k: v for k, v in model.state_dict().items() if "lora_" in k}, strict=False)
    assert not missing.unexpected_keys
    return oracle.eval().to(base.device)


def alone(oracle: Any, examples: Sequence[Example]) -> tuple[list[torch.Tensor], torch.Tensor, int]:
    """Each example's last hidden states [tokens - 1, W], the sum of the losses of all learned tokens, and their
    number."""
    hidden, total, count = [], torch.zeros(()), 0
    for example in examples:
        ids = torch.tensor([example.token_ids], device=oracle.device)
        hidden.append(bloom_model(oracle)(ids).last_hidden_state[0, :-1].detach())
        learned = torch.tensor(example.loss_mask[1:], device=ids.device)
        if learned.any():
            logits = oracle(ids).logits[0, :-1]
            total = total.to(logits.device) + F.cross_entropy(
                logits[learned].float(), ids[0, 1:][learned], reduction="sum"
            )
            count += int(learned.sum())
    return hidden, total, count


def places(batches: Sequence[Batch], examples: Sequence[Example]) -> list[tuple[int, int, slice]]:
    """Where each example lies: batch, row, and places in the row."""
    found = []
    for example in examples:
        size = len(example.token_ids) - 1
        (place,) = [
            (number, row, slice(start, start + size))
            for number, batch in enumerate(batches)
            for row, start in torch.nonzero(batch.position_BT == 0).tolist()
            if batch.document_BT[row, start] >= 0
            and int(batch.remaining_BT[row, start]) == size
            and batch.tokens_BT[row, start : start + size].tolist() == example.token_ids[:-1]
        ]
        found.append(place)
    return found
