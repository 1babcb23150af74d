"""`train --from RUN`: the settings of a run or an adapter for one that trains it further, and its weights to start with.

What makes the adapter what it is (base, bits, template, shape) is the other run's and cannot be changed; what the run
does with it (rows, passes, learning rate, seed) is the other's unless it is given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from florilegium.config import current_settings, read_run_config
from florilegium.data import DEFAULT_TEMPLATE
from florilegium.errors import ModelError, UsageError
from florilegium.runs.moved import places
from florilegium.storage.run_directory import RunDirectory, adapter_folder, find_run

# The new run's own: where it lies, how long it is, what it runs on.
NOT_INHERITED = (
    "output", "force", "start_from", "epochs", "max_steps", "device", "dtype", "kernels", "batching", "memory",
    "parallel", "pipeline_stages", "gpu_memory_limit", "micro_batch_tokens", "report_to",
)  # fmt: skip
# What is said of one file's columns and splits says nothing of another's.
OF_THE_ROWS = (
    "text_column", "tags_column", "tags_separator", "join_tag_columns", "split_on", "split", "held_out_file",
)  # fmt: skip
FIXED = ("model", "revision", "bits", "template", "lora_rank", "lora_alpha", "target_modules", "rslora", "dora")
MADE_OF_THE_BASE = ("pissa", "olora")


def inherited_settings(given: Mapping[str, Any]) -> dict[str, object]:
    """`given`, over the settings of the run or adapter that `start_from` names; `given` itself where it names none.
    Raises UsageError for a setting that cannot differ, ModelError for an adapter that cannot be trained further."""
    settings = current_settings(given)
    name = settings.get("start_from")
    if not name:
        return settings
    folder = find_run(str(name))
    adapter = adapter_folder(folder)
    run = RunDirectory(folder if folder != adapter else adapter.parent)
    written = _of_run(run) if run.has_config else _of_adapter(adapter)
    if written.get("lora_init") in MADE_OF_THE_BASE:
        raise ModelError(
            f"{name} was trained with --lora-init {written['lora_init']}, which changes the base it starts on",
            "Train a new run instead of --from",
        )
    for key in FIXED:
        if key in settings and key in written and settings[key] != written[key]:
            flag = "--" + key.replace("_", "-")
            raise UsageError(
                f"{flag} cannot change with --from ({name} has {written[key]!r})",
                f"Leave {flag} out, or train a new run",
            )
    if "data" not in settings and "data" not in written:
        raise UsageError(f"{name} is an adapter, and does not say on which rows to train", "Name DATA")
    others = settings.get("data", written.get("data")) != written.get("data")
    left = NOT_INHERITED + (OF_THE_ROWS if others else ())
    kept = {key: value for key, value in written.items() if key not in left}
    # The folder by its name: `latest` is another one tomorrow, and a run that is resumed asks again.
    return {**kept, "lora_init": "default", **settings, "start_from": str(folder)}


def _of_run(run: RunDirectory) -> dict[str, object]:
    """The settings of a run, with its rows and base where they lie now."""
    written = read_run_config(run.check().config)
    return {**written, **places(written, run.path)}


def _of_adapter(adapter: Path) -> dict[str, object]:
    """The settings that an adapter's own files name."""
    from florilegium.model.adapter_facts import read_facts, template_of  # these import torch
    from florilegium.model.untrusted import read_json

    facts = read_facts(adapter)
    lora = read_json(adapter / "adapter_config.json", str(adapter / "adapter_config.json"))
    base = facts.base.name
    if not base:
        raise ModelError(
            f"{adapter} does not say which base and template it is for", "Name a run that florilegium made"
        )
    targets = lora.get("target_modules")
    template = facts.template or DEFAULT_TEMPLATE
    is_chat = facts.form == "chat"  # then its template is the tokenizer's, filled with these columns
    columns = template_of(facts).columns
    return {
        "model": base,
        "revision": facts.revision,
        "bits": facts.bits or 8,
        "template": " ->: ".join(f"{{{name}}}" for name in columns) if is_chat else template,
        "chat": is_chat,
        "direction": facts.direction or "quote",
        "lora_rank": lora.get("r"),
        "lora_alpha": float(lora.get("lora_alpha") or 0),
        "lora_dropout": float(lora.get("lora_dropout") or 0),
        "target_modules": targets if isinstance(targets, str) else ",".join(sorted(targets or [])),
        "rslora": bool(lora.get("use_rslora")),
        "dora": bool(lora.get("use_dora")),
        "lora_init": str(lora.get("init_lora_weights")).lower(),
    }
