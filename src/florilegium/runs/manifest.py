"""What a run writes down about itself: manifest.json, the adapter's florilegium.json, and the first lines on the
screen."""

from __future__ import annotations

import importlib.metadata
import platform
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from florilegium.model import Base, ParameterCount, base_facts
from florilegium.model.memory_plan import Forecast
from florilegium.runs.prepare import Prepared
from florilegium.runs.recorder import View
from florilegium.storage.run_directory import tilde
from florilegium.training import Schedule

LONGEST_WORD = 20
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "datasets", "tokenizers", "safetensors")


def adapter_facts(prepared: Prepared) -> dict[str, Any]:
    """What the adapter's folder remembers beside PEFT's own files."""
    template = prepared.rows.template
    return {
        "format": 1,
        "template": template.text,
        "list_columns": list(template.list_columns),
        "base": base_facts(prepared.base),
        "revision": prepared.config.revision,
        "bits": prepared.config.bits,
        "openings": _openings([template.render(quote) for quote in prepared.training_quotes]),
    }


def _openings(texts: Sequence[str]) -> dict[str, int]:
    """How training rows begin: the 500 most frequent first words and their counts. Where a script has no spaces, two
    letters."""
    words = (text.split(maxsplit=1)[0] for text in texts)
    return dict(Counter(word if len(word) <= LONGEST_WORD else word[:2] for word in words).most_common(500))


def figures_before(prepared: Prepared, count: ParameterCount, schedule: Schedule) -> dict[str, Any]:
    config, rows = prepared.config, prepared.rows
    return {
        "version": importlib.metadata.version("florilegium"),
        "python": platform.python_version(),
        "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
        "device": torch.cuda.get_device_name()
        if prepared.base.device.type == "cuda"
        else f"cpu, {torch.get_num_threads()} threads",
        "compute": config.dtype,
        "fast": list(prepared.fast),
        "seed": config.seed,
        "base": base_facts(prepared.base),
        "data": {
            "source": tilde(rows.source),
            "digest": rows.digest,
            "rows": len(rows.quotes),
            "duplicates": rows.duplicates,
        },
        "template": rows.template.text,
        "training_rows": len(prepared.training.examples),
        "held_out_rows": len(prepared.held_out.examples),
        "cut_rows": prepared.training.num_cut + prepared.held_out.num_cut,
        "skipped_rows": len(rows.skipped),
        "trained_parameters": count.trained,
        "total_parameters": count.total,
        "planned_steps": schedule.num_steps,
    }


def count_layers(base: Base) -> int:
    return int(base.model.config.get_text_config().num_hidden_layers)


def describe_forecast(forecast: Forecast, layers: int) -> str:
    """What the plan keeps, in words, and the peak that it expects."""
    kept = (
        "all activations kept"
        if forecast.full == layers
        else f"{forecast.full} of {layers} blocks keep their activations"
    )
    copies = f", {forecast.copies} of {layers} blocks with a bfloat16 copy of their weights" if forecast.copies else ""
    total = f" of {torch.cuda.get_device_properties(0).total_memory / 2**30:.0f}" if torch.cuda.is_available() else ""
    return f"{kept}{copies}, {forecast.tokens:,} tokens at once; forecast {forecast.peak / 2**30:.1f} GiB{total}"


def describe_fast(names: tuple[str, ...]) -> str:
    """The kernels that a run takes. Fused blocks bring attention and linears of their own: the other two are not used
    beside them."""
    replaced = ("flex-attention", "quantized-linear") if "fused-blocks" in names else ()
    return ", ".join(name for name in names if name not in replaced) or "off"


def say_plan(
    view: View,
    prepared: Prepared,
    count: ParameterCount,
    schedule: Schedule,
    directory: Path,
    forecast: Forecast | None,
) -> None:
    config, base = prepared.config, prepared.base
    held = {8: "int8", 4: "NF4", 16: "bfloat16", 32: "float32"}[config.bits]
    where = torch.cuda.get_device_name() if base.device.type == "cuda" else f"CPU ({torch.get_num_threads()} threads)"
    view.say(
        f"model    {config.model}: {count.total - count.trained:,} parameters frozen in {held}, computing in {config.dtype} on {where}"
    )
    view.say(
        f"adapter  LoRA rank {config.lora_rank}: {count.trained:,} of {count.total:,} parameters train ({100 * count.share:.3f}%)"
    )
    rows = "packed rows" if base.packs else "padded rows, one quote each"
    view.say(f"path     {rows}; fast: {describe_fast(prepared.fast)}")
    if forecast is not None:
        view.say(f"memory   {describe_forecast(forecast, count_layers(base))}")
        if forecast.products:
            view.say(f"         {forecast.products}")
    view.say(
        f"plan     {schedule.num_steps:,} steps of {config.batch_size} quotes, learning rate {config.learning_rate:g}, seed {config.seed}"
    )
    view.say(f"run      {directory}")
