"""Which weights of a model a token is multiplied by, known from its modules alone.

linears     nn.Linear and the Conv1D of GPT-2, which bitsandbytes quantises; Falcon's own kind, which it does not
experts     one parameter [experts, N, K] for all of a block, not quantised either: of it a token goes through as
            many as the router chooses
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
CHOSEN = ("num_experts_per_tok", "top_k_experts", "moe_topk")


def product_parameters(model: nn.Module) -> int:
    """The frozen weights that take part in the products of one token, the head's among them."""
    dense = sum(
        module_size(module) for name, module in model.named_modules() if is_linear(module) and "lora_" not in name
    )
    number, chosen = _experts_of(model)
    return dense + (sum(p.numel() for p in expert_parameters(model)) * chosen // number if number else 0)


def is_linear(module: nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, (nn.Linear, Conv1D))


def is_quantised(module: nn.Module) -> bool:
    """Whether Transformers has bitsandbytes take it, with `--bits 8` or 4, unless it is the head."""
    return is_linear(module) and not (isinstance(module, nn.Linear) and type(module) is not nn.Linear)


def module_size(module: nn.Module) -> int:
    """Weights of a linear; its tensor may hold several of them in a byte."""
    if isinstance(module, nn.Linear):
        return module.in_features * module.out_features
    return int(module.nx) * int(module.nf)  # type: ignore[arg-type]  # Conv1D's, untyped


def outputs(module: nn.Module) -> int:
    """Rows of a linear, each of which has a scale in int8."""
    return module.out_features if isinstance(module, nn.Linear) else int(module.nf)  # type: ignore[arg-type]  # as above


def expert_parameters(model: nn.Module) -> Iterator[nn.Parameter]:
    number, _ = _experts_of(model)
    for parameter in model.parameters():
        if number and parameter.dim() == 3 and len(parameter) == number:
            yield parameter


def _experts_of(model: nn.Module) -> tuple[int, int]:
    """How many experts a block has, and how many of them a token goes through; zeros where there are none."""
    config = getattr(model, "config", None)
    if config is None:
        return 0, 0
    text = config.get_text_config()
    number, chosen = (
        next((int(value) for key in keys if (value := getattr(text, key, None))), 0) for keys in (EXPERTS, CHOSEN)
    )
    return number, min(max(1, chosen), number)
