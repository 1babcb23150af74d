"""The model card of an adapter, filled: what it is, how it was made, what it scored, how to use it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from florilegium.config import TrainConfig

RAIL = (
    "The base model is under the BigScience BLOOM RAIL License 1.0, whose use restrictions apply to this adapter too "
    "(https://huggingface.co/spaces/bigscience/license)."
)


def adapter_card(config: TrainConfig, figures: Mapping[str, Any], samples: list[str]) -> str:
    """Markdown with the Hub's metadata on top. `figures` are those of the run's manifest and its losses."""
    is_hub_id = config.model.count("/") == 1 and not config.model.startswith((".", "/", "~"))
    is_bloom = config.model.startswith("bigscience/bloom")
    meta = ["library_name: peft", "pipeline_tag: text-generation", "tags:", "- lora", "- florilegium"]
    meta += [f"base_model: {config.model}", "base_model_relation: adapter"] if is_hub_id else []
    meta += ["license: bigscience-bloom-rail-1.0"] if is_bloom else []
    shown = "\n\n".join("> " + sample.replace("\n", "\n> ") for sample in samples)
    loss = "not measured"
    if figures.get("eval_loss") is not None:
        loss = f"{figures['eval_loss_before']:.3f} before, {figures['eval_loss']:.3f} after (nats a token, {figures['held_out_rows']} rows)"
    base = f'"{config.model}"' if is_hub_id else "FOLDER_OF_THE_BASE_MODEL"
    return f"""---
{chr(10).join(meta)}
---

# Adapter for {_name(config.model)}

LoRA (rank {config.lora_rank}, alpha {config.lora_alpha:g}) on {_name(config.model)}, its base frozen in {config.bits} bits, trained by
florilegium {figures["version"]} on {figures["training_rows"]} rows rendered as
`{config.template}`. {figures["trained_parameters"]:,} of {figures["total_parameters"]:,} parameters were trained
({100 * figures["trained_parameters"] / figures["total_parameters"]:.3f}%).

| | |
|---|---|
| steps, rows a step | {figures["steps"]}, {config.batch_size} |
| learning rate, schedule | {config.learning_rate:g}, {config.lr_schedule} |
| held-out loss | {loss} |
| seed | {config.seed} |

## Use

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained({base})
model = PeftModel.from_pretrained(base, "FOLDER_OF_THIS_ADAPTER")
tokenizer = AutoTokenizer.from_pretrained("FOLDER_OF_THIS_ADAPTER")
```

or `florilegium generate --run FOLDER_OF_THIS_ADAPTER`.

## As it came out

{shown or "No samples were taken."}

## Limits

It writes what its training rows and its base model make likely, which may be wrong, unfair or close to a text it was trained on.
{RAIL if is_bloom else ""}
"""


def _name(model: str) -> str:
    """A model's name without the path it happened to lie in."""
    return (
        model
        if model.count("/") == 1 and not model.startswith((".", "/", "~"))
        else model.rstrip("/").rsplit("/", 1)[-1]
    )
