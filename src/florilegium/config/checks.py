"""A `TrainConfig` out of plain values, checked: what cannot work is refused here, before anything is loaded or written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_type_hints

from florilegium.config.renamed import RENAMED, current_setting
from florilegium.config.settings import TrainConfig
from florilegium.errors import UsageError, nearest, nearest_flag

TRACKERS = ("tensorboard", "wandb", "trackio")


def make_config(values: Mapping[str, Any], *, source: str = "") -> TrainConfig:
    """`values` over the defaults, checked. Raises UsageError that names `source`, the key and what it takes."""
    where = f"{source}: " if source else ""
    config = TrainConfig(**each_checked(values, where))
    if config.seed >= 2**63:
        raise UsageError(f"{where}--seed is {config.seed}", "It takes a number below 2^63")
    _check_compute(config)
    _check_adapter(config)
    if config.pipeline_stages and config.parallel == "data":
        raise UsageError(f"{where}--pipeline-stages is for a pipeline, and --parallel is data", "Leave one of them out")
    _check_trackers(config.report_to)
    return config


def each_checked(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`values` under today's names, each of the type and in the range of its setting, whatever the others are and whatever
    is installed here. Raises UsageError that begins with `where`."""
    known = {f.name: f for f in fields(TrainConfig)}
    hints = get_type_hints(TrainConfig)
    clean: dict[str, Any] = {}  # each of the type that its field has: `_checked`
    for name, value in values.items():
        key, value = current_setting(str(name), value)
        if key not in known:
            raise UsageError(
                f"{where}unknown setting {str(name)!r}",
                nearest_flag(key, RENAMED | {k: k for k in known}) or "--print-config shows all of them",
            )
        clean[key] = _checked(where, key, value, hints[key], known[key].metadata)
    return clean


def _near(value: object, choices: tuple[object, ...]) -> str:
    near = nearest(str(value), [str(choice) for choice in choices])
    return f". {near}" if near else ""


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _check_compute(config: TrainConfig) -> None:
    """Weights that are not quantized are multiplied in the dtype that they are stored in. Raises UsageError."""
    held = {16: "bfloat16", 32: "float32"}.get(config.bits)
    if held and config.dtype not in ("auto", held):
        fix = f"Drop --dtype, or use --bits {48 - config.bits}"
        raise UsageError(f"--bits {config.bits} computes in {held}, but --dtype is {config.dtype}", fix)


def _check_adapter(config: TrainConfig) -> None:
    """Refuses what cannot work on a quantised base. Raises UsageError with the reason."""
    if config.lora_init == "orthogonal" and config.lora_rank % 2:
        raise UsageError(f"--lora-init orthogonal needs an even rank, and --lora-rank is {config.lora_rank}", "Use 16")
    if config.bits >= 16:
        return
    if config.dora:
        raise UsageError(
            f"--dora does not work with --bits {config.bits}, because DoRA needs full-precision base weights",
            "Use --bits 16, or drop --dora",
        )
    why = {
        "pissa": "it decomposes full-precision base weights",
        "olora": "it decomposes full-precision base weights",
        "orthogonal": "it is drawn in the dtype of full-precision base weights",
    }
    if config.lora_init in why:
        raise UsageError(
            f"--lora-init {config.lora_init} does not work with --bits {config.bits}, because {why[config.lora_init]}",
            "Use --bits 16, or drop --lora-init",
        )


def _check_trackers(report_to: str) -> None:
    for name in (n.strip() for n in report_to.split(",")):
        if name not in ("none", "", *TRACKERS):
            raise UsageError(f"--report-to is {name!r}", f"It takes none, or any of {', '.join(TRACKERS)}")
        if name in TRACKERS and not _is_installed(name):
            raise UsageError(f"--report-to {name} needs the package {name}", f"Type: pip install {name}")


def _is_installed(name: str) -> bool:
    """As Accelerate asks, which passes over trackers that are not: a folder of that name can be imported too (wandb
    leaves one)."""
    import importlib.metadata  # slow to import, and rarely needed
    import importlib.util

    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return importlib.util.find_spec(name) is not None


def _checked(where: str, name: str, value: object, hint: type, meta: Mapping[str, Any]) -> object:
    """`value` as the field's type, or UsageError. An int is taken for a float, nothing else is converted."""
    shown = f"{where}{name}" if where else "--" + name.replace("_", "-")
    accepted = getattr(hint, "__args__", (hint,))
    if isinstance(value, int) and not isinstance(value, bool) and float in accepted and int not in accepted:
        value = float(value)
    if isinstance(value, str) and float in accepted and str not in accepted:
        value = _number(value)  # YAML reads 2e-4, without a point, as text
    # bool is a kind of int in Python, but `rank: true` is a mistake.
    if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in accepted):
        names = " or ".join("nothing" if t is type(None) else t.__name__ for t in accepted)
        raise UsageError(f"{shown} is {value!r}", f"It takes {names}")
    if value is None:
        return value
    if meta["choices"] and value not in meta["choices"]:
        listed = ", ".join(str(c) for c in meta["choices"])
        raise UsageError(
            f"{shown} is {value!r}",
            f"It takes one of {listed}{_near(value, meta['choices'])}",
        )
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if value != value or value in (float("inf"), float("-inf")):
            raise UsageError(f"{shown} is {value!r}", "It takes a finite number")
        if meta["minimum"] is not None and value < meta["minimum"]:
            raise UsageError(f"{shown} is {value!r}", f"It takes {meta['minimum']:g} or more")
        if name in ("held_out", "validation", "lora_dropout", "warmup_ratio") and value >= 1:
            raise UsageError(f"{shown} is {value!r}", "It takes a fraction: 0 or more, and less than 1")
    return value
