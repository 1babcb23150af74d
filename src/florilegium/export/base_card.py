"""The card of a base that was exported by itself: what was done to it, how near it is, how to load it, whose terms hold."""

from __future__ import annotations

from collections.abc import Mapping

from florilegium.export.card_use import THIS, ways_to_load
from florilegium.export.origin import Origin
from florilegium.export.verdict import Verdict

WORDS = {"int8": "int8 (LLM.int8(), a scale for each row)", "nf4": "NF4 (a scale for each 64 weights, quantised too)"}


def base_card(base: Origin, kind: str, files: Mapping[str, int], verdict: Verdict) -> str:
    """The README.md of `base` in `kind`, its `files` in bytes."""
    import yaml

    values: dict[str, object] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["bitsandbytes", "florilegium"],
    }
    if base.licence:
        values["license"] = base.licence
    if base.on_hub:
        values |= {"base_model": base.name, "base_model_relation": "quantized"}
    shown = [(name, size) for name, size in files.items() if name.endswith(".safetensors")]
    sizes = "\n".join(f"| `{name}` | {size / 1e6:,.1f} MB |" for name, size in shown)
    parts = [
        f"---\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True)}---\n\n# {base.name} in {kind}",
        f"{base.name}, nothing trained, with its linears in {WORDS[kind]} by bitsandbytes.",
        f"Against its own 16-bit weights: {verdict.sentence()}.",
        f"| file | size |\n|---|---|\n{sizes}",
        f"## Load it\n\n{ways_to_load('quantised', base, THIS, '', files)}",
        f"## Terms\n\n{base.restrictions()}",
    ]
    return "\n\n".join(parts) + "\n"
