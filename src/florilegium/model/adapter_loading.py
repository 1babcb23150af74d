"""An adapter from disk, onto the base that it was made for.

PEFT loads an adapter onto any base of the same shape without a word, and one that is damaged too. Here what
`florilegium.json` remembers of base, tokenizer and files (`adapter_facts.py`) is compared first. An adapter that others
made is read as well, as data (`untrusted.py`)."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from florilegium.errors import ModelError, reason_of
from florilegium.model.adapter_config import lora_header, lora_values
from florilegium.model.adapter_facts import FACTS, AdapterFacts, read_facts
from florilegium.model.base import Base
from florilegium.model.base_changes import recording
from florilegium.model.identity import BaseFacts, base_facts, same_weights
from florilegium.model.load_errors import ONE_LOAD_AT_A_TIME
from florilegium.model.lora import ESSENTIAL, adapter_state, adapter_tensors, set_adapter_state
from florilegium.model.rehearsal import check_init, check_matrices, refuse_wrapped_head
from florilegium.storage.atomic_folders import ChecksumMismatch, read_verified
from florilegium.storage.safetensors_io import read_header

if TYPE_CHECKING:
    from peft import PeftModel

    from florilegium.model.families.base import AnyModel


def load_adapter(base: Base, folder: Path, *, other_weights: bool = False) -> PeftModel:
    """The base with the adapter of `folder` on it, ready to generate. Raises ModelError when it was made for another
    base (with `other_weights`: of another shape; an adapter trained on int8 weights is merged into the 16-bit ones), is
    damaged, or asks for anything but LoRA."""
    from peft import LoraConfig, PeftModel

    facts = read_facts(folder)
    check_fit(base, facts, folder, ignored=("digest",) if other_weights else ())
    if not (folder / "adapter_model.safetensors").is_file():
        raise ModelError(f"{folder} has no adapter_model.safetensors", _what_else(folder))
    values = lora_values(folder, base.model.config.get_text_config().hidden_size)
    _check_whole(folder, facts, values)
    check_init(folder, values, base.bits)
    lora = LoraConfig(**values)
    try:
        # Made on the meta device first, an adapter draws nothing: another thread may train with these numbers. PEFT then
        # takes the file's tensors for its own, which those that read or replace the base's must not be.
        plain = lora.init_lora_weights is True and lora.bias == "none" and not lora.use_dora
        kept = contextlib.nullcontext() if plain else _callers_random_numbers_kept(base.device)
        with ONE_LOAD_AT_A_TIME, warnings.catch_warnings(), recording(base.model, lora) as base.replaced, kept:
            warnings.simplefilter("ignore")
            model = PeftModel.from_pretrained(base.model, str(folder), config=lora, low_cpu_mem_usage=plain)
    # PEFT, safetensors and torch each raise their own kinds on a broken or unfitting adapter
    except Exception as error:
        raise ModelError(
            f"the adapter in {folder} does not load on {base.name} ({reason_of(error)})",
            "Check that it was made for this model; --model names another",
        ) from error
    if plain:
        _copy_out_of_the_file(model)
    refuse_wrapped_head(model, folder, base.name)
    _check_all_used(model, folder, base)
    return model.eval()


def _copy_out_of_the_file(model: PeftModel) -> None:
    """On the CPU the tensors lie in the file itself, mapped: one that is written over would change a model in use, and
    one that is cut short end the process."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name or ".modules_to_save." in name:
                parameter.data = parameter.data.clone()


def start_from_adapter(base: Base, model: AnyModel, folder: Path) -> None:
    """Puts the weights of the adapter in `folder` into the fresh one of `model`. Raises ModelError when it was made for
    another base, is damaged, or has another shape."""
    from safetensors.torch import load_file

    facts = read_facts(folder)
    check_fit(base, facts, folder)
    if not (folder / "adapter_model.safetensors").is_file():
        raise ModelError(f"{folder} has no adapter_model.safetensors", _what_else(folder))
    values = lora_values(folder, base.model.config.get_text_config().hidden_size)
    _check_whole(folder, facts, values)
    read_header(folder / "adapter_model.safetensors", f"the adapter in {folder}")
    state = load_file(folder / "adapter_model.safetensors")
    mine = adapter_tensors(model)
    if {name: tensor.shape for name, tensor in mine.items()} != {name: tensor.shape for name, tensor in state.items()}:
        raise ModelError(
            f"the adapter in {folder} has other matrices than this run's settings make",
            "Leave the adapter's settings (--lora-rank, --target-modules, ...) out: --from takes them from it",
        )
    if patterns := [name for name in ("rank_pattern", "alpha_pattern") if values.get(name)]:
        cause = f"the adapter in {folder} has a {patterns[0]}, and a run has one rank and one alpha for all"
        raise ModelError(cause, "Train a new run instead of --from")
    _check_finite(state, folder)
    set_adapter_state(model, state)


def _what_else(folder: Path) -> str:
    if (folder / "adapter_model.bin").exists():
        return "It holds a pickle, which may run code: load it with PEFT, and save it again by save_pretrained"
    return "Copy it again: this file holds what the adapter learned"


def _check_whole(folder: Path, facts: AdapterFacts, values: Mapping[str, object]) -> None:
    """Compares weights and LoRA's settings with what florilegium.json remembers of them; adapters that others made have
    no memory."""
    fix = "Copy the adapter again; florilegium resume RUN writes that of its run again once the broken one is removed"
    if facts.files is not None:
        try:
            read_verified(folder, ["adapter_model.safetensors"], FACTS)
        except ChecksumMismatch as error:
            raise ModelError(f"the adapter in {folder} is not as it was saved: {error}", fix) from None
    for name, value in (facts.lora or {}).items():
        if name in ESSENTIAL and values.get(name) != value:
            raise ModelError(
                f"the adapter_config.json in {folder} says {name} is {values.get(name)}, and it was made with {value}",
                fix,
            )


def _check_all_used(model: AnyModel, folder: Path, base: Base) -> None:
    """Every tensor of the file found its place and every place its numbers, and they are numbers."""
    check_matrices(model, lora_header(folder), folder, base.name)
    _check_finite(adapter_state(model), folder)


def _check_finite(state: Mapping[str, torch.Tensor], folder: Path) -> None:
    for key, tensor in state.items():
        if not bool(torch.isfinite(tensor).all()):
            cause = f"the adapter in {folder} holds NaN or infinity in {key[:120]}"
            raise ModelError(cause, "Get the adapter again, or train it again")


def _callers_random_numbers_kept(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """What is drawn inside, on the CPU and on `device`, is not missing outside."""
    return torch.random.fork_rng([torch.cuda.current_device()] if device.type == "cuda" else [])


def check_fit(base: Base, facts: AdapterFacts, folder: Path, *, ignored: Sequence[str] = ()) -> None:
    """Compares what the adapter was made for with the base at hand, but for `ignored`. Raises ModelError that says
    which differs."""
    made_for, here = facts.base, base_facts(base)
    mine, theirs = _flat(here), _flat(made_for)
    if same_weights(here, made_for):  # quantised beforehand, or as they are loaded
        ignored = (*ignored, "digest")
    for key in [key for key in mine if key in theirs and key not in ignored and mine[key] != theirs[key]]:
        what = {"digest": "weights", "tokenizer_digest": "tokenizer"}.get(key, key)
        detail = "" if "digest" in key else f" ({str(theirs[key])[:40]}, here {mine[key]})"
        raise ModelError(
            f"the adapter in {folder} was made for {made_for.name}, and {base.name} has another {what}{detail}",
            f"Use --model {made_for.name}",
        )


def _flat(facts: BaseFacts) -> dict[str, object]:
    """What they say but for the name, the shape's entries among the others, shapes before digests: they say more."""
    values = {**facts.to_json(), **(facts.shape or {})}
    order = sorted(values, key=lambda key: "digest" in key)
    return {key: values[key] for key in order if key not in ("name", "shape", "original_digest")}
