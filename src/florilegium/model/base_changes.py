"""The base as it was before an adapter, where the adapter changes the base itself.

PiSSA and OLoRA take their start out of the base's weights, and an adapter with `bias` puts its biases in place of the
base's. PEFT's `disable_adapter` undoes neither, so what it shows is the base of nobody. What was there is kept, and put
back for as long as the base is asked for.

    with recording(model, lora_config) as replaced:
        peft_model = get_peft_model(model, lora_config)
    with original_weights(replaced): ...              the base, to the bit
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

if TYPE_CHECKING:
    from peft import LoraConfig

# PEFT makes the same start, and so the same base, whenever it reads such an adapter
CHANGES_BASE = ("pissa", "olora")


@dataclass
class Replaced:
    """A parameter of the base, and the values that it does not hold now: the base's, while the adapter is on."""

    parameter: nn.Parameter
    other: torch.Tensor

    def swap(self) -> None:
        self.parameter.data, self.other = self.other, self.parameter.data


@contextlib.contextmanager
def recording(model: nn.Module, config: LoraConfig) -> Iterator[list[Replaced]]:
    """A list that is filled, at the end, with what the adapter of this `config` replaced in `model`."""
    replaced: list[Replaced] = []
    before = [(parameter, parameter.data) for parameter in _at_stake(model, config)]
    for parameter, original in before:
        # PEFT writes biases in place, and OLoRA weights that are float32 already: into a copy, for the memory may be
        # another model's too (`shared_base.py`)
        parameter.data = original.clone()
    try:
        yield replaced
    finally:
        for parameter, original in before:
            if torch.equal(parameter.data, original):
                parameter.data = original
            else:
                replaced.append(Replaced(parameter, original))


def _at_stake(model: nn.Module, config: LoraConfig) -> list[nn.Parameter]:
    from peft.tuners.tuners_utils import check_target_module_exists

    found: list[nn.Parameter] = []
    if config.bias != "none":
        found += [parameter for name, parameter in model.named_parameters() if name.endswith("bias")]
    if config.init_lora_weights in CHANGES_BASE:
        every = config.target_modules == "all-linear"
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear) and (every or check_target_module_exists(config, name)):
                found.append(cast(nn.Parameter, module.weight))
    return found


@contextlib.contextmanager
def original_weights(replaced: Sequence[Replaced]) -> Iterator[None]:
    """Inside, the base holds its own values."""
    for one in replaced:
        one.swap()
    try:
        yield
    finally:
        for one in replaced:
            one.swap()
