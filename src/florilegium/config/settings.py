"""Every setting of a training run, once: its default, its type, the sentence that `--help` shows, the values it takes.

`TrainConfig` is a frozen dataclass of plain values. The command line makes a flag of each field (`batch_size` -> `--batch-size`),
`--config run.yaml` reads the same names, `--print-config` writes them back, and `runs/NAME/config.yaml` holds the resolved set: four
views of one list, so they cannot drift.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

DEFAULT_TEMPLATE = "{quote} ->: {tags}"


def setting(default: Any, help: str, *, group: str, choices: tuple[Any, ...] = (), minimum: float | None = None) -> Any:
    """A field of the config: `choices` and `minimum` (inclusive) are checked by `check`, `help` is shown by
    `--help`."""
    return field(default=default, metadata={"help": help, "group": group, "choices": choices, "minimum": minimum})


@dataclass(frozen=True)
class TrainConfig:
    """The settings of a training run; `config.yaml` of a run holds the resolved set."""

    data: str = setting(
        "sample", "JSONL, JSON, CSV or Parquet file, a folder of them, a Hub id, or 'sample'", group="data"
    )
    template: str = setting(DEFAULT_TEMPLATE, "the text of a row; {name} stands for a column", group="data")
    skip_bad_rows: bool = setting(False, "leave rows out that cannot be used, and say which", group="data")
    fix_encoding: bool = setting(False, "mend broken encoding (mojibake) before anything else", group="data")
    held_out: float = setting(0.1, "share of the rows kept aside to measure on", group="data", minimum=0.0)
    split_by: str = setting(
        "near-duplicates",
        "what stays on one side: near-copies, an author, nothing",
        group="data",
        choices=("near-duplicates", "author", "random"),
    )
    max_length: int = setting(
        1024, "tokens a row may have; the quote is cut, never tags or end-of-text", group="data", minimum=8
    )
    loss_on: str = setting("all", "which tokens are learned", group="data", choices=("all", "tags"))

    model: str = setting("seedling", "a folder, a Hub id such as bigscience/bloom-560m, or 'seedling'", group="model")
    revision: str | None = setting(None, "branch, tag or commit of the model on the Hub", group="model")
    bits: int = setting(
        8, "how the frozen base is held: 8 and 4 by bitsandbytes, 16, 32", group="model", choices=(8, 4, 16, 32)
    )
    device: str = setting("auto", "where to train", group="model", choices=("auto", "cpu", "cuda"))
    dtype: str = setting("auto", "precision of the arithmetic", group="model", choices=("auto", "bfloat16", "float32"))
    kernels: str = setting("auto", "fast paths: auto, off, or names such as attention,linear", group="model")
    memory: str = setting(
        "auto",
        "lean recomputes activations, fast keeps them, auto fills the card",
        group="model",
        choices=("auto", "fast", "lean"),
    )
    gpu_memory_limit: float | None = setting(
        None, "GiB of the GPU that a run may take; default: what is free", group="model", minimum=0.0
    )

    lora_rank: int = setting(16, "rank of the adapter", group="adapter", minimum=1)
    lora_alpha: float = setting(32.0, "the adapter is scaled by alpha / rank", group="adapter")
    lora_dropout: float = setting(0.05, "dropout on the adapter's input", group="adapter", minimum=0.0)
    target_modules: str = setting("auto", "'auto', 'all-linear', or names separated by commas", group="adapter")
    rslora: bool = setting(False, "scale by alpha / sqrt(rank)", group="adapter")
    dora: bool = setting(False, "weight-decomposed LoRA (needs --bits 16 or 32)", group="adapter")
    lora_init: str = setting(
        "default",
        "how A and B start",
        group="adapter",
        choices=("default", "gaussian", "orthogonal", "olora", "pissa", "corda"),
    )

    epochs: float = setting(3.0, "times over the rows", group="training", minimum=0.0)
    max_steps: int | None = setting(None, "take this many steps, whatever --epochs says", group="training", minimum=1)
    batch_size: int = setting(16, "rows of an optimiser step", group="training", minimum=1)
    batching: str = setting(
        "auto",
        "of rows: a shuffle, or one arranged so that steps fill a GPU's tiles",
        group="training",
        choices=("auto", "shuffled", "tile-aligned"),
    )
    micro_batch_tokens: int = setting(
        0, "tokens held in memory at once; 0 asks the device", group="training", minimum=0
    )
    learning_rate: float | None = setting(
        None, "default: 2e-4, and 1e-3 below 100M parameters", group="training", minimum=0.0
    )
    lr_schedule: str = setting(
        "cosine", "how the rate falls", group="training", choices=("cosine", "linear", "constant")
    )
    warmup_ratio: float = setting(0.05, "share of the steps over which the rate rises", group="training", minimum=0.0)
    weight_decay: float = setting(0.0, "AdamW's weight decay", group="training", minimum=0.0)
    max_grad_norm: float = setting(
        1.0, "largest norm of the gradient; 0 leaves it alone", group="training", minimum=0.0
    )
    optimizer: str = setting(
        "adamw",
        "8-bit and paged ones are bitsandbytes'",
        group="training",
        choices=("adamw", "adamw-8bit", "paged-adamw-8bit"),
    )
    lora_plus_ratio: float | None = setting(
        None, "LoRA+: B learns this many times faster than A", group="training", minimum=1.0
    )
    neftune_alpha: float | None = setting(
        None, "NEFTune: noise on the embeddings while training", group="training", minimum=0.0
    )
    seed: int = setting(0, "of the adapter, the order of rows, dropout and the samples", group="training", minimum=0)

    eval_every: int | None = setting(
        None, "steps between looks at held-out rows; default: 4 times a run", group="run", minimum=1
    )
    early_stopping_patience: int | None = setting(
        None, "stop after this many looks without a better loss", group="run", minimum=1
    )
    save_every: int | None = setting(None, "steps between checkpoints; default: with each look", group="run", minimum=1)
    keep_checkpoints: int = setting(2, "checkpoints kept", group="run", minimum=1)
    log_every: int = setting(1, "steps between lines of metrics.jsonl", group="run", minimum=1)
    output: str | None = setting(None, "the run's folder; default: runs/ and date and name", group="run")
    force: bool = setting(False, "use --output even if a run is there (the old one is set aside)", group="run")
    report_to: str = setting("none", "none, or of tensorboard, wandb, trackio, separated by commas", group="run")
