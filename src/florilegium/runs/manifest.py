"""What a run writes down about itself: manifest.json and the adapter's florilegium.json."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict

import torch

from florilegium.config.installed import installed_version
from florilegium.data import Quote, Template
from florilegium.data.quote import join_items
from florilegium.data.words import beginning
from florilegium.errors import counted
from florilegium.model import ParameterCount, base_facts
from florilegium.model.adapter_loading import AdapterFacts
from florilegium.model.identity import BaseFacts
from florilegium.model.lora import FACTS_FORMAT
from florilegium.runs.plan import ExecutionPlan
from florilegium.runs.prepare import Prepared
from florilegium.storage.paths import tilde

LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "datasets", "tokenizers", "safetensors")


class DataFacts(TypedDict):
    """The rows of a run."""

    source: str
    digest: str
    rows: int
    duplicates: int


class RunManifest(TypedDict):
    """manifest.json. What is not required is written at the end of the run, or where there is something to tell."""

    version: str
    python: str
    libraries: dict[str, str]
    device: str
    compute: str
    fast: list[str]
    seed: int
    base: BaseFacts
    data: DataFacts
    template: str
    direction: str
    training_rows: int
    held_out_rows: int
    validation_rows: int
    cut_rows: int
    skipped_rows: int
    trained_parameters: int
    total_parameters: int
    planned_steps: int
    processes: NotRequired[int]
    stages: NotRequired[list[str]]  # of a pipeline: the blocks of each process
    stage_peak_bytes: NotRequired[list[int]]
    stage_forecast_bytes: NotRequired[list[int]]
    forecast_bytes: NotRequired[int]
    tile: NotRequired[int]  # tokens of which the steps hold a multiple
    forgotten: NotRequired[Mapping[str, object]]
    steps: NotRequired[int]
    tokens: NotRequired[int]
    elapsed_seconds: NotRequired[float]
    tokens_per_second: NotRequired[float]
    peak_memory_bytes: NotRequired[int]
    eval_loss_before: NotRequired[float | None]
    eval_loss: NotRequired[float | None]
    validation_loss: NotRequired[float | None]
    best_step: NotRequired[int]
    verdict: NotRequired[Mapping[str, object]]


def adapter_facts(prepared: Prepared) -> AdapterFacts:
    """What the adapter's folder remembers beside PEFT's own files."""
    template = prepared.rows.template
    return {
        "format": FACTS_FORMAT,
        "template": template.text,
        "list_columns": list(template.list_columns),
        "base": base_facts(prepared.base),
        "base_is_local": prepared.base.path != prepared.base.name,
        "revision": prepared.config.revision,
        "bits": prepared.config.bits,
        "openings": _openings(template, prepared.training_quotes),
        **({"direction": "both"} if template.tags_first else {}),  # tags first alone is what the template says
        **({"form": "chat"} if template.is_chat else {}),
    }


def _openings(template: Template, quotes: Sequence[Quote]) -> dict[str, int]:
    """How texts from nothing begin; where a chat template stands before the first word, with it in front."""
    if not template.is_chat:
        return _first_words([template.render(quote) for quote in quotes])
    words = _first_words([join_items(quote[template.columns[0]]) for quote in quotes])
    return {f"{template.opening}{word}": count for word, count in words.items()}


def _first_words(texts: Sequence[str]) -> dict[str, int]:
    """How training rows begin: the 500 most frequent first words and their counts."""
    return dict(Counter(beginning(text.split(maxsplit=1)[0]) for text in texts).most_common(500))


def initial_manifest(prepared: Prepared, plan: ExecutionPlan, count: ParameterCount) -> RunManifest:
    """manifest.json as it stands before the first step; the results come at the end."""
    config, rows = plan.config, prepared.rows
    manifest: RunManifest = {
        "version": installed_version("florilegium"),
        "python": platform.python_version(),
        "libraries": {name: installed_version(name) for name in LIBRARIES},
        "device": torch.cuda.get_device_name()
        if prepared.base.device.type == "cuda"
        else f"cpu, {counted(torch.get_num_threads(), 'thread')}",
        "compute": config.dtype,
        "fast": list(plan.kernels),
        "seed": config.seed,
        "base": base_facts(prepared.base),
        "data": {
            "source": tilde(rows.source),
            "digest": rows.digest,
            "rows": len(rows.quotes),
            "duplicates": rows.duplicates,
        },
        "template": rows.template.text,
        "direction": rows.template.direction,
        "training_rows": len(prepared.training_quotes),
        "held_out_rows": len(prepared.held_out_quotes),
        "validation_rows": len(prepared.split.validation),
        "cut_rows": prepared.training.num_cut + prepared.held_out.num_cut + prepared.validation.num_cut,
        "skipped_rows": len(rows.skipped),
        "trained_parameters": count.trained,
        "total_parameters": count.total,
        "planned_steps": plan.length.num_steps,
    }
    if plan.memory:
        manifest["forecast_bytes"] = plan.memory.peak
    if plan.tile:
        manifest["tile"] = plan.tile
    if plan.stage_peaks:
        manifest["stage_forecast_bytes"] = list(plan.stage_peaks)
    return manifest
