"""An adapter folder as what it does to each weight of its base.

PEFT itself says which modules the adapter sits on and with what scaling (rank and alpha patterns, rsLoRA): it is put
on the base's shape, on the meta device, which holds no numbers. The numbers come from `adapter_model.safetensors`:

    base_model.model.transformer.h.0.self_attention.dense.lora_A.weight      a LoraChange of ...dense.weight
    base_model.model.transformer.h.0.self_attention.dense.base_layer.bias    another bias (bias="lora_only", "all")
    base_model.model.lm_head.weight                                          another weight (modules_to_save)
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from florilegium.errors import ModelError, reason_of
from florilegium.export.lora_change import LoraChange
from florilegium.model.adapter_config import lora_values
from florilegium.storage.library_errors import ran_out_of_memory
from florilegium.storage.safetensors_io import read_header

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer
    from transformers import PreTrainedModel

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
OTHER_BASE = "It was made for another base: name that one with --model"


@dataclass(frozen=True)
class AdapterChanges:
    """`changes` and `replaced` by the names that the weights have in the Transformers model; `digest` is the sha256 of
    the adapter's file."""

    changes: dict[str, LoraChange]
    replaced: dict[str, torch.Tensor]
    bias_added: dict[str, torch.Tensor]
    values: Mapping[str, Any]
    digest: str
    rank: int
    alpha: float

    @classmethod
    def none(cls) -> AdapterChanges:
        """The base as it is."""
        return cls({}, {}, {}, {}, "", 0, 0.0)


def read_changes(folder: Path, model: PreTrainedModel) -> AdapterChanges:
    """What the adapter in `folder` does to `model`, which may lie on the meta device and gets PEFT's modules put into
    it. Raises ModelError for an adapter that is damaged, not LoRA, or does not sit on this model."""
    from safetensors.torch import load_file

    values = lora_values(folder, model.config.get_text_config().hidden_size)
    init = values.get("init_lora_weights", True)
    layers = _lora_layers(model, values, folder)
    read_header(folder / WEIGHTS, f"the adapter in {folder}")
    tensors = load_file(folder / WEIGHTS)
    changes, replaced, added = {}, {}, {}
    for name, layer in layers.items():
        changes[f"{name}.weight"] = _change(name, layer, tensors, init, folder)
        if (bias := tensors.pop(f"{PREFIX}{name}.lora_B.bias", None)) is not None:
            added[f"{name}.bias"] = bias.float() * layer.scaling["default"]
    for key, tensor in tensors.items():
        name = key.removeprefix(PREFIX).replace(".base_layer.", ".")
        if ".lora_" in key:
            raise ModelError(f"the adapter in {folder} has {key}, which this base lacks", OTHER_BASE)
        replaced[name] = tensor
    with (folder / WEIGHTS).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return AdapterChanges(changes, replaced, added, values, digest, int(values["r"]), float(values["lora_alpha"]))


def _lora_layers(model: PreTrainedModel, values: Mapping[str, Any], folder: Path) -> dict[str, LoraLayer]:
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora import LoraLayer

    try:
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")
            tuned: Any = get_peft_model(model, LoraConfig(**{**values, "init_lora_weights": False}))
    except (ValueError, TypeError, NotImplementedError, RuntimeError) as error:
        if ran_out_of_memory(error):
            raise
        raise ModelError(f"the adapter in {folder} does not fit its base ({reason_of(error)})", OTHER_BASE) from error
    modules = tuned.base_model.model.named_modules()
    return {name: module for name, module in modules if isinstance(module, LoraLayer)}


def _change(
    name: str, layer: LoraLayer, tensors: dict[str, torch.Tensor], init: str | bool, folder: Path
) -> LoraChange:
    embedding = f"{PREFIX}{name}.lora_embedding_A" in tensors
    names = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A.weight", "lora_B.weight")
    try:
        a_RK, b_NR = (tensors.pop(f"{PREFIX}{name}.{part}").float() for part in names)
        magnitude = tensors.pop(f"{PREFIX}{name}.lora_magnitude_vector").float() if layer.use_dora["default"] else None
    except KeyError as error:
        raise ModelError(
            f"the adapter in {folder} lacks {error}", "Copy it again; if it is whole, it was made for another base"
        ) from None
    scaling = float(layer.scaling["default"])
    transposed = embedding or bool(getattr(layer, "fan_in_fan_out", False))
    left, right = (a_RK.T, b_NR.T) if transposed else (b_NR, a_RK)
    kept = init if init in ("pissa", "olora") else "default"
    return LoraChange(left, right, magnitude, transposed, kept, scaling)
