"""Folders that others made: what is looked at before Transformers or PEFT read a byte of them.

A model or an adapter from the network is data, and stays data: no pickle is opened, no code of a folder runs, no number
in it makes us allocate what its files do not hold. Those libraries keep the first two by themselves today; the checks
here do not depend on that, and give one line in place of a traceback."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from florilegium.errors import ModelError
from florilegium.storage.safetensors_io import read_header

MAX_JSON_BYTES = 4 << 20
MAX_CONFIG_BYTES = 64 << 20  # a tokenizer_config.json may list every token that was added
AGAIN = "Get it again from where it came"
PLAIN_NAME = re.compile(r"[\w.-]{1,200}", re.ASCII)
# What of PEFT's LoraConfig is taken over; anything else must be at its default.
LORA_FIELDS = {
    "r", "lora_alpha", "lora_dropout", "target_modules", "fan_in_fan_out", "bias", "use_rslora", "use_dora", "modules_to_save",
    "init_lora_weights", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern", "lora_bias", "task_type",
    "inference_mode", "peft_type", "base_model_name_or_path", "revision", "peft_version", "exclude_modules",
}  # fmt: skip


def check_file(path: Path, what: str, limit: int) -> None:
    """Raises ModelError unless `path` is a file of at most `limit` bytes: a FIFO or a device would be read for ever."""
    try:
        facts = path.stat()
    except FileNotFoundError:
        raise ModelError(f"{what} is not there", "Get the folder again from where it came") from None
    except OSError as error:
        raise ModelError(f"{what} cannot be read ({error.strerror or error})", AGAIN) from None
    if not stat.S_ISREG(facts.st_mode):
        raise ModelError(f"{what} is no file", AGAIN)
    if facts.st_size > limit:
        raise ModelError(f"{what} is over {limit:,} bytes", AGAIN)


def read_json(path: Path, what: str, limit: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """A JSON object of at most `limit` bytes. Raises ModelError."""
    check_file(path, what, limit)
    try:
        with path.open("rb") as file:
            values = json.loads(file.read(limit + 1))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{what} cannot be read ({type(error).__name__})", AGAIN) from None
    if not isinstance(values, dict):
        raise ModelError(f"{what} cannot be read (it holds no object)", AGAIN)
    return values


def refuse_code(folder: Path, name: str) -> None:
    """Raises ModelError when a JSON file of `folder` asks for code of its own to be run (`auto_map`)."""
    for path in sorted(folder.glob("*config.json")):
        values = read_json(path, f"the {path.name} of {name}", MAX_CONFIG_BYTES)
        if any(key == "auto_map" and value for key, value in entries(values)):
            raise ModelError(
                f"{name} wants to run code of its own ({path.name})", "florilegium never does: choose another model"
            )


def entries(values: Mapping[str, Any], depth: int = 8) -> Iterator[tuple[str, Any]]:
    """Keys and values of an object and of those in it."""
    for key, value in values.items():
        yield key, value
        if isinstance(value, dict) and depth:
            yield from entries(value, depth - 1)


def lora_values(folder: Path, model_width: int) -> dict[str, Any]:
    """adapter_config.json of `folder` as arguments of PEFT's LoraConfig, checked against the adapter's own tensors.

    Raises ModelError when it is no LoRA, asks for anything but plain LoRA's settings, or announces a rank that its
    tensors do not have."""
    from peft import LoraConfig

    what = f"the adapter_config.json in {folder}"
    fix = "Get the adapter again, or train it again"
    values = read_json(folder / "adapter_config.json", what)
    if values.get("peft_type") != "LORA":
        raise ModelError(f"{what} says {str(values.get('peft_type'))[:40]!r}, and only LoRA is read", fix)
    default = LoraConfig()
    for key, value in values.items():
        if key not in LORA_FIELDS and value and value != getattr(default, key, None):
            raise ModelError(f"{what} asks for {key[:60]!r}, which is not read here", fix)
    header = read_header(folder / "adapter_model.safetensors", f"the adapter in {folder}")
    _check_numbers(values, what, fix)
    _check_ranks(values, header, model_width, what, fix)
    kept = {key: values[key] for key in LORA_FIELDS & values.keys() if key not in ("peft_version", "exclude_modules")}
    if isinstance(kept.get("target_modules"), str):
        # never a pattern that others wrote
        kept["target_modules"] = sorted({_module(name) for name in header if ".lora_A." in name})
    return kept


def _check_numbers(values: Mapping[str, Any], what: str, fix: str) -> None:
    for key in ("r", "lora_alpha"):
        if type(values.get(key)) not in (int, float) or not 0 < values[key] < 1e6:
            raise ModelError(f"{what}: {key} is {str(values.get(key))[:40]}", fix)
    modules = values.get("target_modules")
    names = modules if isinstance(modules, list) else []
    names = [
        *names,
        *(values.get("rank_pattern") or {}),
        *(values.get("alpha_pattern") or {}),
        *(values.get("modules_to_save") or []),
    ]
    for name in names:
        if not isinstance(name, str) or not PLAIN_NAME.fullmatch(name) or ".." in name:
            raise ModelError(f"{what}: {str(name)[:60]!r} is not the name of a module", fix)


def _check_ranks(values: Mapping[str, Any], header: Mapping[str, Any], width: int, what: str, fix: str) -> None:
    ranks = {entry["shape"][0] for name, entry in header.items() if ".lora_A." in name and len(entry["shape"]) == 2}
    asked = {values["r"], *(values.get("rank_pattern") or {}).values()}
    if not ranks:
        raise ModelError(f"{what}: its weights hold no LoRA matrix", fix)
    if not asked >= ranks or max(asked) > max(ranks) or max(ranks) > 16 * width:
        raise ModelError(
            f"{what} says rank {values['r']}, and its weights have {', '.join(map(str, sorted(ranks)[:3]))}", fix
        )


def _module(name: str) -> str:
    """`base_model.model.transformer.h.0.attn.query.lora_A.weight` -> `transformer.h.0.attn.query`."""
    return name.split(".lora_A.")[0].removeprefix("base_model.model.")
