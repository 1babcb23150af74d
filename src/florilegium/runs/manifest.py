"""What a run writes down about itself: manifest.json and the adapter's florilegium.json."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import torch

from florilegium.config.installed import installed_version
from florilegium.data import Quote, Template
from florilegium.data.quote import join_items
from florilegium.data.words import beginning
from florilegium.errors import counted
from florilegium.model import ParameterCount, base_facts
from florilegium.model.adapter_facts import FACTS_FORMAT, AdapterFacts
from florilegium.model.identity import BaseFacts
from florilegium.runs.plan import ExecutionPlan
from florilegium.runs.prepare import Prepared
from florilegium.storage.json_record import JsonRecord, as_object
from florilegium.storage.paths import tilde

LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "datasets", "tokenizers", "safetensors")


@dataclass(frozen=True, kw_only=True)
class DataFacts(JsonRecord):
    """The rows of a run."""

    source: str = ""
    digest: str
    rows: int = 0
    duplicates: int = 0


@dataclass(frozen=True)
class RunResults(JsonRecord):
    """What a run came to. Losses are None where no row was held out."""

    steps: int
    tokens: int = 0
    elapsed_seconds: float = 0.0
    tokens_per_second: float = 0.0
    peak_memory_bytes: int = 0
    eval_loss_before: float | None = None
    eval_loss: float | None = None
    validation_loss: float | None = None
    best_step: int = 0


@dataclass(frozen=True, kw_only=True)
class RunManifest(JsonRecord):
    """manifest.json. What is None is not written: it is known at the end of the run alone, or there is nothing to tell.
    A run of an earlier version has the defaults."""

    version: str = ""
    python: str = ""
    libraries: dict[str, str] = field(default_factory=dict)
    device: str = ""
    compute: str = ""
    fast: list[str] = field(default_factory=list)
    seed: int = 0
    base: BaseFacts
    data: DataFacts
    template: str
    direction: str = "quote"
    training_rows: int = 0
    held_out_rows: int = 0
    validation_rows: int = 0
    cut_rows: int = 0
    skipped_rows: int = 0
    trained_parameters: int = 0
    total_parameters: int = 0
    planned_steps: int = 0
    forecast_bytes: int | None = None
    tile: int | None = None  # tokens of which the steps hold a multiple
    stage_forecast_bytes: list[int] | None = None
    processes: int | None = None
    stages: list[str] | None = None  # of a pipeline: the blocks of each process
    stage_peak_bytes: list[int] | None = None
    forgotten: dict[str, object] | None = None
    results: RunResults | None = None  # as keys among the others
    verdict: dict[str, object] | None = None

    def to_json(self) -> dict[str, object]:
        values = {name: value for name, value in super().to_json().items() if value is not None}
        if self.results is None:
            return values
        verdict = {"verdict": values.pop("verdict")} if "verdict" in values else {}
        del values["results"]
        return {**values, **self.results.to_json(), **verdict}

    @classmethod
    def from_json(cls, found: object) -> Self:
        values = as_object(found)
        return super().from_json({**values, "results": values if "steps" in values else None})


def adapter_facts(prepared: Prepared) -> AdapterFacts:
    """What the adapter's folder remembers beside PEFT's own files."""
    template = prepared.rows.template
    return AdapterFacts(
        format=FACTS_FORMAT,
        template=template.text,
        list_columns=list(template.list_columns),
        base=base_facts(prepared.base),
        base_is_local=prepared.base.path != prepared.base.name,
        revision=prepared.config.revision,
        bits=prepared.config.bits,
        openings=_openings(template, prepared.training_quotes),
        direction="both" if template.tags_first else None,  # tags first alone is what the template says
        form="chat" if template.is_chat else None,
    )


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
    return RunManifest(
        version=installed_version("florilegium"),
        python=platform.python_version(),
        libraries={name: installed_version(name) for name in LIBRARIES},
        device=torch.cuda.get_device_name()
        if prepared.base.device.type == "cuda"
        else f"cpu, {counted(torch.get_num_threads(), 'thread')}",
        compute=config.dtype,
        fast=list(plan.kernels),
        seed=config.seed,
        base=base_facts(prepared.base),
        data=DataFacts(
            source=tilde(rows.source), digest=rows.digest, rows=len(rows.quotes), duplicates=rows.duplicates
        ),
        template=rows.template.text,
        direction=rows.template.direction,
        training_rows=len(prepared.training_quotes),
        held_out_rows=len(prepared.held_out_quotes),
        validation_rows=len(prepared.split.validation),
        cut_rows=prepared.training.num_cut + prepared.held_out.num_cut + prepared.validation.num_cut,
        skipped_rows=len(rows.skipped),
        trained_parameters=count.trained,
        total_parameters=count.total,
        planned_steps=plan.length.num_steps,
        forecast_bytes=plan.memory.peak if plan.memory else None,
        tile=plan.tile or None,
        stage_forecast_bytes=list(plan.stage_peaks) or None,
    )
