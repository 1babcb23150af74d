"""Names that settings had in earlier versions. Flags, YAML files, runs and checkpoints that use them are still read.

current_setting("rank", 8)                  -> ("lora_rank", 8)
current_setting("fast", "block,loss")       -> ("kernels", "fused-blocks,chunked-loss")
"""

from __future__ import annotations

from collections.abc import Mapping

RENAMED = {
    "batch_rows": "batch_size",
    "batch_tokens": "micro_batch_tokens",
    "clip": "max_grad_norm",
    "schedule": "lr_schedule",
    "warmup": "warmup_ratio",
    "rank": "lora_rank",
    "alpha": "lora_alpha",
    "dropout": "lora_dropout",
    "init_lora": "lora_init",
    "compute": "dtype",
    "memory_limit": "gpu_memory_limit",
    "fast": "kernels",
    "order": "batching",
    "repair": "fix_encoding",
    "evaluate_every": "eval_every",
    "patience": "early_stopping_patience",
    "from": "start_from",  # its flag
}
RENAMED_KERNELS = {
    "block": "fused-blocks",
    "attention": "flex-attention",
    "linear": "quantized-linear",
    "loss": "chunked-loss",
    "decode": "fast-decode",
}
# What a run did whose config.yaml does not name the setting, because there was none.
BEFORE_SETTING: Mapping[str, object] = {"batching": "shuffled", "direction": "quote", "validation": 0.0,
    "join_tag_columns": False, "split_on": "first-column",
}  # fmt: skip
AUTO_IS_NONE = ("epochs", "learning_rate")
RENAMED_VALUES = {"split_by": {"cluster": "near-duplicates"}, "batching": {"filled": "tile-aligned"}}


def current_setting(name: str, value: object) -> tuple[str, object]:
    """The name and value that a setting has today. Any spelling with hyphens is taken; unknown names pass through."""
    key = name.replace("-", "_")
    key = RENAMED.get(key, key)
    if not isinstance(value, str):
        return key, value
    if value == "auto" and key in AUTO_IS_NONE:
        return key, None
    if key == "kernels":
        return key, ",".join(RENAMED_KERNELS.get(part.strip(), part.strip()) for part in value.split(","))
    return key, RENAMED_VALUES.get(key, {}).get(value, value)


def current_settings(values: Mapping[str, object]) -> dict[str, object]:
    """All of `values` under the names of today."""
    return dict(current_setting(str(name), value) for name, value in values.items())


def settings_of_run(values: Mapping[str, object]) -> dict[str, object]:
    """Those of a run's config.yaml or checkpoint, with what it did where it names nothing."""
    return {**BEFORE_SETTING, **current_settings(values)}
