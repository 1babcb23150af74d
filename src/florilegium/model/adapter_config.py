"""An adapter's settings and the names of its tensors, before PEFT reads a byte of them.

PEFT puts what it finds under a name where that name leads: a tensor called `...embed_tokens.weight` goes into the
frozen base. Here every name must be that of a LoRA matrix, or of a whole module that the settings say was trained
(`modules_to_save`, of which PEFT makes a copy); every number must be one that LoRA can have."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from florilegium.errors import ModelError
from florilegium.model.base_changes import CHANGES_BASE
from florilegium.model.bitsandbytes_import import before_peft
from florilegium.model.untrusted import check_file, read_json
from florilegium.model.weight_check import FLOATS
from florilegium.storage.safetensors_io import TensorEntry, read_header

WEIGHTS = "adapter_model.safetensors"
MAX_WEIGHT_BYTES = 64 << 30
PLAIN_NAME = re.compile(r"[\w.-]{1,200}", re.ASCII)
PREFIX = "base_model.model."
MATRIX = re.compile(
    r"base_model\.model\.[\w.]+\.(lora_[AB]\.(weight|bias)|lora_embedding_[AB]|lora_magnitude_vector(\.weight)?)",
    re.ASCII,
)
# What of PEFT's LoraConfig is taken over; anything else must be at its default.
LORA_FIELDS = {
    "r", "lora_alpha", "lora_dropout", "target_modules", "fan_in_fan_out", "bias", "use_rslora", "use_dora", "modules_to_save",
    "init_lora_weights", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern", "lora_bias", "task_type",
    "inference_mode", "peft_type", "base_model_name_or_path", "revision", "peft_version", "exclude_modules",
    "eva_config",
}  # fmt: skip
NOT_PASSED_ON = ("peft_version", "eva_config")
SWITCHES = ("fan_in_fan_out", "use_rslora", "use_dora", "lora_bias", "inference_mode")
# Starts that leave the base as it is: what they drew is in the file, so nothing of them is needed to read it.
PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva", "mica", "default", "true", "false")
FIX = "Get the adapter again, or train it again"
MERGE = "Merge it into its base with PEFT (merge_and_unload), and name that model with --model"
CONVERT = "Convert it to plain LoRA with PEFT's save_pretrained(path_initial_model_for_weight_conversion=...)"


def lora_values(folder: Path, model_width: int) -> dict[str, Any]:
    """adapter_config.json of `folder` as arguments of PEFT's LoraConfig, checked against the adapter's own tensors.

    Raises ModelError when it is no LoRA, asks for anything but plain LoRA's settings, announces a rank that its tensors
    do not have, or brings tensors that are no part of it."""
    before_peft()
    from peft import LoraConfig

    what = f"the adapter_config.json in {folder}"
    values = read_json(folder / "adapter_config.json", what)
    if values.get("peft_type") != "LORA":
        raise ModelError(f"{what} has peft_type {str(values.get('peft_type'))[:40]!r}; only LoRA is supported", FIX)
    start = _start(values.get("init_lora_weights", True), folder)
    default = LoraConfig()
    for key, value in values.items():
        if key not in LORA_FIELDS and value and value != getattr(default, key, None):
            raise ModelError(f"{what} uses {key[:60]!r}, which florilegium does not support", MERGE)
    check_file(folder / WEIGHTS, f"the {WEIGHTS} in {folder}", MAX_WEIGHT_BYTES)
    header = read_header(folder / WEIGHTS, f"the adapter in {folder}")
    _check_numbers(values, what)
    _check_tensors(values, header, folder)
    _check_ranks(values, header, model_width, what)
    kept = {key: values[key] for key in LORA_FIELDS & values.keys() if key not in NOT_PASSED_ON}
    kept["init_lora_weights"] = start
    if isinstance(kept.get("target_modules"), str):
        # never a pattern that others wrote, which could search for ever: the modules that the file holds matrices of
        kept["target_modules"] = sorted({_module(name) for name in header if ".lora_A." in name})
    return kept


def lora_header(folder: Path) -> Mapping[str, TensorEntry]:
    """Names, shapes and dtypes of the adapter's tensors."""
    return read_header(folder / WEIGHTS, f"the adapter in {folder}")


def adapted_modules(file: Path) -> tuple[str, ...]:
    """The modules that an adapter's file, or a checkpoint's, has matrices for; none where there is no file."""
    header = read_header(file, str(file)) if file.is_file() else {}
    return tuple(dict.fromkeys(_module(name.removeprefix("best.")) for name in header if ".lora_A." in name))


def _start(init: object, folder: Path) -> bool | str:
    """PEFT's `init_lora_weights` where it says something of the base, else True. Raises ModelError for a start that
    changed the base in a way that nobody can repeat."""
    if any(init is known or init == known for known in PLAIN_STARTS):
        return True
    if init in CHANGES_BASE:
        return str(init)
    raise ModelError(
        f"the adapter in {folder} was initialised with {str(init)[:40]!r}, which modifies the base irreproducibly",
        CONVERT,
    )


def is_quick_pattern(text: str) -> bool:
    """Whether the regular expression `text` is found or not in a short time: no repeated group, no reference, and at
    most two parts of any length."""
    if len(text) > 400 or re.search(r"\)[*+{]|\(\?[^:]|\\[1-9]|[*+?}][*+]", text):
        return False
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError):
        return False
    return len(re.findall(r"(?<!\\)[*+]|\{\d*,", text)) <= 2


def _check_numbers(values: Mapping[str, Any], what: str) -> None:
    for key, value in values.items():
        wrong = (
            (key in ("r", "lora_alpha") and not _between(value, 0, 1e6))
            or (key == "lora_dropout" and value is not None and not (value == 0 or _between(value, 0, 1)))
            or (key in SWITCHES and not isinstance(value, (bool, type(None))))
            or (key == "init_lora_weights" and not isinstance(value, (bool, str, type(None))))
            or (key in ("rank_pattern", "alpha_pattern") and value and not _is_pattern(value, key))
            or (key == "layers_to_transform" and value is not None and not _are_layers(value))
            or (key == "bias" and value not in (None, "none", "all", "lora_only"))
            or (key == "task_type" and value not in (None, "CAUSAL_LM"))
        )
        if wrong:
            raise ModelError(f"{what}: {key} is {str(value)[:40]}", FIX)
    if "r" not in values or "lora_alpha" not in values:
        raise ModelError(f"{what} lacks r or lora_alpha", FIX)
    for name in _names(values, what):
        if not isinstance(name, str) or not PLAIN_NAME.fullmatch(name) or ".." in name:
            raise ModelError(f"{what}: {str(name)[:60]!r} is not the name of a module", FIX)
    for pattern in _patterns(values):
        if not is_quick_pattern(pattern):
            raise ModelError(f"{what}: the pattern {pattern[:60]!r} could take too long to match", MERGE)


def _between(value: object, low: float, high: float) -> bool:
    """A finite number above `low` and below `high`."""
    return type(value) in (int, float) and math.isfinite(value) and low < value < high  # type: ignore[arg-type,operator]


def _is_pattern(value: object, key: str) -> bool:
    kinds = (int,) if key == "rank_pattern" else (int, float)
    return isinstance(value, dict) and all(type(v) in kinds and _between(v, 0, 1e6) for v in value.values())


def _are_layers(value: object) -> bool:
    layers = value if isinstance(value, list) else [value]
    return all(type(layer) is int and 0 <= layer < 1 << 20 for layer in layers)


def _names(values: Mapping[str, Any], what: str) -> list[Any]:
    """Everything that names modules."""
    names: list[Any] = []
    for key in ("target_modules", "modules_to_save", "layers_pattern", "exclude_modules"):
        value = values.get(key)
        if isinstance(value, list):
            names += value
        elif not isinstance(value, (str, type(None))) or (value and key == "modules_to_save"):
            raise ModelError(f"{what}: {key} is {str(value)[:40]}", FIX)
        elif value and key == "layers_pattern":
            names.append(value)
    return names


def _patterns(values: Mapping[str, Any]) -> list[str]:
    """What PEFT searches module names for, as regular expressions."""
    excluded = values.get("exclude_modules")
    patterns = [excluded] if isinstance(excluded, str) else []
    for key in ("rank_pattern", "alpha_pattern"):
        patterns += values.get(key) or {}
    return patterns


def _check_tensors(values: Mapping[str, Any], header: Mapping[str, TensorEntry], folder: Path) -> None:
    """Every tensor must be a LoRA matrix of numbers, or of a module that the settings say was trained whole."""
    whole = tuple(str(name) for name in values.get("modules_to_save") or ())
    for name, entry in header.items():
        module = name.removeprefix(PREFIX).rpartition(".")[0]
        saved = name.startswith(PREFIX) and any(module == m or module.endswith(f".{m}") for m in whole)
        if not saved and not MATRIX.fullmatch(name) and not _is_trained_bias(values, name, header):
            why = "which is not a LoRA matrix: it would change the base"
            if ".base_layer." in name:
                why = "the base's own weights, which PEFT saves beside LoRA on the head or the embedding; they are not read"
            raise ModelError(f"the adapter in {folder} holds {name[:120]!r}, {why}", MERGE)
        if entry["dtype"] not in FLOATS:
            raise ModelError(f"the adapter in {folder}: {name[:120]!r} is stored as {entry['dtype'][:20]}", FIX)


def _is_trained_bias(values: Mapping[str, Any], name: str, header: Mapping[str, TensorEntry]) -> bool:
    """Whether this is a bias that the settings say was trained with LoRA: every one, or those of LoRA's linears."""
    module = name.removesuffix(".bias").removesuffix(".base_layer")
    ours = values.get("bias") == "all" or (values.get("bias") == "lora_only" and f"{module}.lora_A.weight" in header)
    return bool(name.startswith(PREFIX) and name.endswith(".bias") and ours)


def _check_ranks(values: Mapping[str, Any], header: Mapping[str, TensorEntry], width: int, what: str) -> None:
    for key in ("rank_pattern", "alpha_pattern"):  # PEFT tries each of them on each module
        if len(values.get(key) or ()) > len(header):
            raise ModelError(f"{what}: {key} names more modules than its weights have", FIX)
    ranks = {entry["shape"][0] for name, entry in header.items() if ".lora_A." in name and len(entry["shape"]) == 2}
    asked = {values["r"], *(values.get("rank_pattern") or {}).values()}
    if not ranks:
        raise ModelError(f"{what}: its weights hold no LoRA matrix", FIX)
    if not asked >= ranks or max(asked) > max(ranks) or max(ranks) > 16 * width:
        raise ModelError(
            f"{what} says rank {values['r']}, and its weights have {', '.join(map(str, sorted(ranks)[:3]))}", FIX
        )


def _module(name: str) -> str:
    """`base_model.model.transformer.h.0.attn.query.lora_A.weight` -> `transformer.h.0.attn.query`."""
    return name.split(".lora_A.")[0].removeprefix(PREFIX)
