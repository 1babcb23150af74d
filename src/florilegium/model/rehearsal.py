"""An adapter tried on the outline of its base, before anything is loaded or written.

The outline is the model that config.json describes, without numbers. PEFT puts its modules on it as on the real one, so
what cannot work is known in a second and not after minutes of loading: a module that is not there or takes no LoRA, one
that our forward pass reads past PEFT's wrapping (the head), matrices that have no place or another shape."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from florilegium.config import TrainConfig
from florilegium.errors import ModelError, UsageError, reason_of
from florilegium.model.adapter_config import MERGE, lora_header, lora_values
from florilegium.model.config_numbers import check_sizes
from florilegium.model.families.base import inner_model
from florilegium.model.hub import config_folder, read_config
from florilegium.model.load_errors import ONE_LOAD_AT_A_TIME, model_errors, quietly
from florilegium.model.lora import check_rank, lora_config
from florilegium.model.model_config import stored_bits
from florilegium.model.transformers_loader import outline
from florilegium.model.weight_files import find_weights
from florilegium.storage.safetensors_io import TensorEntry

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel

    from florilegium.model.families.base import AnyModel


def rehearse_training(config: TrainConfig) -> None:
    """Raises UsageError or ModelError where the adapter of `config` cannot be trained on its model."""
    wrap_for_training(_outline_of(config.model, config.revision), config)


def wrap_for_training(model: PreTrainedModel, config: TrainConfig) -> PeftModel:
    """The outline `model` with the adapter of `config` on it. Raises UsageError or ModelError where that cannot be
    trained."""
    check_rank(model, config.model, config.lora_rank)
    lora = lora_config(model, config)
    try:
        wrapped = _on_outline(model, lora)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise ModelError(
            f"no adapter fits {config.model} ({reason_of(error)})", "Name its linear layers with --target-modules"
        ) from error
    if name := wrapped_head(wrapped):
        raise UsageError(
            f"--target-modules: {name!r} is the head of {config.model}, whose weights the loss reads without an adapter",
            f"Leave {name} out",
        )
    return wrapped


def rehearse_adapter(folder: Path, name: str, revision: str | None, bits: int) -> None:
    """Raises ModelError where the adapter in `folder` is not one for the model `name` in `bits`."""
    model = _outline_of(name, revision)
    values = lora_values(folder, model.config.get_text_config().hidden_size)
    check_init(folder, values, bits)
    try:
        wrapped = _on_outline(model, _as_lora(values))
    except Exception as error:  # PEFT raises its own kinds on what does not fit
        raise ModelError(
            f"the adapter in {folder} does not fit {name} ({reason_of(error)})", "Name its base with --model"
        ) from error
    refuse_wrapped_head(wrapped, folder, name)
    if bits < 16 and (whole := _whole_linear(wrapped)):
        raise ModelError(
            f"the adapter in {folder} holds {whole!r} whole (modules_to_save), which a base in {bits} bits has no place "
            "for",
            "Use --bits 16 or 32",
        )
    check_matrices(wrapped, lora_header(folder), folder, name)


def check_bits(name: str, revision: str | None, asked: int | None, usual: int) -> int:
    """The bits to load the model `name` in: those that it is stored in, if it is quantised. Raises UsageError where
    others were asked for."""
    stored = stored_bits(read_config(config_folder(name, revision), name))
    if stored is not None and asked not in (None, stored):
        raise UsageError(
            f"{name} is stored in {stored} bits, and --bits is {asked}",
            "Leave --bits out, or name the 16-bit model that it was made from",
        )
    return stored or asked or usual


def check_init(folder: Path, values: Mapping[str, Any], bits: int) -> None:
    """A start that was taken out of the base's weights wants them in full. Raises ModelError."""
    start = values.get("init_lora_weights")
    if start in ("pissa", "olora") and bits < 16:
        raise ModelError(
            f"the adapter in {folder} started from {start}, which changes the base's own weights, and in {bits} bits "
            "they are not there in full",
            "Use --bits 16 or 32",
        )


def check_matrices(model: AnyModel, header: Mapping[str, TensorEntry], folder: Path, name: str) -> None:
    """Every tensor of the file must have a place of its shape, and every place a tensor: PEFT drops what has none with a
    warning at most. Raises ModelError."""
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    for verb, others, what in (("has", header.keys() - state, "lacks"), ("lacks", state.keys() - header, "has")):
        if others:
            cause = f"the adapter in {folder} {verb} {len(others)} matrices that {name} {what} ({min(others)[:120]})"
            raise ModelError(cause, "It was made for another model: name that one with --model")
    for key, tensor in state.items():
        held = list(header[key]["shape"])
        if held != list(tensor.shape):
            raise ModelError(
                f"the adapter in {folder} does not fit {name}: {key[:120]} has shape {held}, here {list(tensor.shape)}",
                "It was made for a model of another size, or with another vocabulary: name that one with --model",
            )


def refuse_wrapped_head(model: AnyModel, folder: Path, name: str) -> None:
    """Raises ModelError for an adapter with LoRA on the head."""
    if head := wrapped_head(model):
        raise ModelError(
            f"the adapter in {folder} has LoRA on {head!r}, the head of {name}, whose weights are read without an "
            "adapter here",
            MERGE,
        )


def wrapped_head(model: AnyModel) -> str:
    """The name of the head if LoRA is on it, or an empty string: its weights are read as they are (`head_weight`), so
    the adapter would be counted and saved and not computed."""
    inner = inner_model(model)
    head = inner.get_output_embeddings()
    names = (name for name, module in inner.named_modules() if module is head)
    return next(names, "the head") if hasattr(head, "base_layer") else ""


def _whole_linear(model: AnyModel) -> str:
    """The name of a linear of the blocks that the adapter brings in full, or an empty string: it would be quantised."""
    from peft.utils.other import ModulesToSaveWrapper

    inner = inner_model(model)
    head = inner.get_output_embeddings()
    for name, module in inner.named_modules():
        is_whole = isinstance(module, ModulesToSaveWrapper) and module is not head
        if is_whole and isinstance(module.original_module, nn.Linear):
            return str(name)
    return ""


def _outline_of(name: str, revision: str | None) -> PreTrainedModel:
    folder = config_folder(name, revision)
    config = read_config(folder, name)
    if Path(name).expanduser().is_dir():  # what its weights can tell; those of a Hub id may still be to come
        check_sizes(config, find_weights(folder, name))
    with quietly(), model_errors(name):
        return outline(config, name)


def _as_lora(values: Mapping[str, Any]) -> LoraConfig:
    from peft import LoraConfig

    return LoraConfig(**values)


def _on_outline(model: PreTrainedModel, lora: LoraConfig) -> PeftModel:
    """PEFT's wrapping, without the start that would read weights."""
    from peft import get_peft_model

    plain = copy.deepcopy(lora)
    plain.init_lora_weights = False
    # PEFT makes its matrices in memory before it moves them: a width of 1e9 would be taken at its word.
    with ONE_LOAD_AT_A_TIME, warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        return get_peft_model(model, plain, low_cpu_mem_usage=True)
