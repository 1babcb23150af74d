"""Rates in the unit in which others publish theirs: model TFLOP/s, and their share of the card's dense peak in bfloat16.

    FLOP a token = 4 x (frozen parameters of the products, head included)

A frozen weight costs a token a product forward and one backward (its own gradient is not made), 2 operations a
parameter each. The adapter's products, attention and what is recomputed are work too, and are not counted: so count
NVIDIA NeMo's performance summary and most others, and recomputing less must not lower a rate."""

from __future__ import annotations

from typing import Any


def product_parameters(config: Any) -> int:
    """Numbers of a model's linears and head, as the unquantised model has them."""
    if config.model_type != "bloom":
        return _linear_parameters(config)
    return int(12 * config.hidden_size**2 * config.n_layer + config.vocab_size * config.hidden_size)


def _linear_parameters(config: Any) -> int:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))


def in_the_fields_unit(config: Any, tokens_per_second: float) -> dict[str, Any]:
    """`tflops` of a model of this config, and `of_peak` where the card's peak is known."""
    import torch

    from florilegium.model.gpus import find_by_device_name

    tflops = 4 * product_parameters(config) * tokens_per_second / 1e12
    card = find_by_device_name(torch.cuda.get_device_name())
    of_peak = round(tflops / card.tflops, 3) if card is not None and card.tflops else None
    return {"tflops": round(tflops, 1), "of_peak": of_peak}
