"""Every setting of a training run, once: its default, its type, the sentence that `--help` shows, the values it takes.

`TrainConfig` is a frozen dataclass of plain values. The command line makes a flag of each field (`batch_size` -> `--batch-size`),
`--config run.yaml` reads the same names, `--print-config` writes them back, and `runs/NAME/config.yaml` holds the resolved set: four
views of one list, so they cannot drift.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Value = str | int | float | bool | None  # of a setting
DEFAULT_TEMPLATE = "{quote} ->: {tags}"


def setting(
    default: Value,
    help: str,
    *,
    group: str,
    choices: tuple[Value, ...] = (),
    minimum: float | None = None,
    metavar: str = "",
    flag: str = "",
) -> Any:  # as dataclasses.field: a type checker takes it for the field's own type
    """A field of the config: `choices` and `minimum` (inclusive) are checked by `make_config`, `help` and `metavar` are
    shown by `--help`; `flag` is the flag's name where it is not the field's."""
    meta = {"help": help, "group": group, "choices": choices, "minimum": minimum, "metavar": metavar, "flag": flag}
    return field(default=default, metadata=meta)


@dataclass(frozen=True)
class TrainConfig:
    """The settings of a training run; `config.yaml` of a run holds the resolved set."""

    data: str = setting(
        "sample", "a CSV, JSONL, JSON, Parquet, Excel or text file, a folder, a Hub id, or 'sample'", group="data"
    )
    template: str = setting(
        DEFAULT_TEMPLATE, "the text of a row; {name} stands for a column", group="data", metavar="TEXT"
    )
    direction: str = setting(
        "quote",
        "a row is trained quote first, tags first, or both ways (twice the steps; then --about asks by tags)",
        group="data",
        choices=("quote", "tags", "both"),
    )
    chat: bool = setting(
        False,
        "rows as a question and its answer (the last column) by the tokenizer's chat template; the answer alone is trained",
        group="data",
    )
    text_column: str | None = setting(
        None, "the column of texts; default: found by its name and its values", group="data", metavar="COLUMN"
    )
    tags_column: str | None = setting(
        None, "the column of tags; default: found the same way", group="data", metavar="COLUMN"
    )
    tags_separator: str | None = setting(
        None,
        "what separates the tags in a cell, such as '/'; default: found in the values",
        group="data",
        metavar="SIGN",
    )
    join_tag_columns: bool = setting(
        True,
        "read tags in several columns (tag1, tag2; one of 0 and 1 for each tag) or inside an object as one column",
        group="data",
    )
    split: str | None = setting(
        None,
        "train on this split alone; default: train on 'train', hold out 'validation' or 'test'",
        group="data",
        metavar="NAME",
    )
    held_out_file: str | None = setting(
        None, "a file of rows to test on, in place of a fraction of DATA", group="data", metavar="FILE"
    )
    skip_bad_rows: bool | None = setting(
        None, "skip rows that cannot be used, and say which; default: up to 1 in 20, else refuse them", group="data"
    )
    fix_encoding: bool = setting(False, "repair broken encoding (mojibake) first", group="data")
    held_out: float = setting(0.1, "fraction of the rows held out to test on", group="data", minimum=0.0, metavar="X")
    validation: float = setting(
        0.3,
        "fraction of held-out rows used to choose the best step, if 30 or more are held out; the rest are reported; 0 = use all for both",
        group="data",
        minimum=0.0,
        metavar="X",
    )
    split_by: str = setting(
        "near-duplicates",
        "keep together in train or test: near-duplicates, authors, or nothing (random)",
        group="data",
        choices=("near-duplicates", "author", "random"),
    )
    split_on: str = setting(
        "auto",
        "what tells rows apart for that: their first column of text, or the others where a third of the rows have the "
        "same in it (auto); or the first column always",
        group="data",
        choices=("auto", "first-column"),
    )
    max_length: int = setting(
        1024, "maximum length of a text in tokens; the quote is cut, tags never", group="data", minimum=8
    )
    loss_on: str = setting("all", "which tokens are trained", group="data", choices=("all", "tags"))

    model: str = setting(
        "seedling", "a folder, a Hub id such as bigscience/bloom-560m, or 'seedling'", group="model", metavar="MODEL"
    )
    revision: str | None = setting(
        None, "branch, tag or commit of the model on the Hub", group="model", metavar="REVISION"
    )
    bits: int = setting(
        8, "base weights: 8 = int8, 4 = NF4, 16 = bfloat16, 32 = float32", group="model", choices=(8, 4, 16, 32)
    )
    device: str = setting("auto", "where to train", group="model", choices=("auto", "cpu", "cuda"))
    dtype: str = setting("auto", "compute dtype", group="model", choices=("auto", "bfloat16", "float16", "float32"))
    kernels: str = setting(
        "auto",
        "fast kernels: auto, off, or names such as fused-blocks,chunked-loss or auto,int8-head",
        group="model",
        metavar="NAMES",
    )
    memory: str = setting(
        "auto",
        "lean recomputes activations, fast keeps them, offload holds the base in main memory, auto fits the GPU",
        group="model",
        choices=("auto", "fast", "lean", "offload"),
    )
    parallel: str = setting(
        "auto",
        "several processes: data = a copy of the base each, pipeline = each some of its blocks; auto = data if it fits",
        group="model",
        choices=("auto", "data", "pipeline"),
    )
    pipeline_stages: int = setting(
        0,
        "processes that hold the base together in a pipeline; more processes are more such chains; 0 = automatic",
        group="model",
        minimum=0,
        metavar="N",
    )
    gpu_memory_limit: float | None = setting(
        None, "GiB of GPU memory that a run may use; default: what is free", group="model", minimum=0.0, metavar="GIB"
    )

    lora_rank: int = setting(16, "rank of the adapter", group="adapter", minimum=1)
    lora_alpha: float = setting(32.0, "the adapter is scaled by alpha / rank", group="adapter", metavar="X")
    lora_dropout: float = setting(0.05, "dropout on the adapter's input", group="adapter", minimum=0.0, metavar="X")
    target_modules: str = setting(
        "auto", "'auto', 'all-linear', or names separated by commas", group="adapter", metavar="NAMES"
    )
    rslora: bool = setting(False, "rank-stabilised LoRA: scale by alpha / sqrt(rank)", group="adapter")
    dora: bool = setting(False, "weight-decomposed LoRA (needs --bits 16 or 32)", group="adapter")
    lora_init: str = setting(
        "default",
        "LoRA weight initialisation",
        group="adapter",
        choices=("default", "gaussian", "orthogonal", "olora", "pissa"),
    )

    epochs: float | None = setting(
        None,
        "passes over the data; default: 3, or up to 20 for about 200 steps (bundled quotes: at least 1)",
        group="training",
        minimum=0.0,
    )
    max_steps: int | None = setting(None, "stop after N steps, whatever --epochs says", group="training", minimum=1)
    batch_size: int = setting(16, "quotes per optimizer step", group="training", minimum=1)
    batching: str = setting(
        "auto",
        "row order: shuffled, or arranged to fill a GPU's tiles",
        group="training",
        choices=("auto", "shuffled", "tile-aligned"),
    )
    micro_batch_tokens: int = setting(0, "maximum tokens per micro-batch; 0 = automatic", group="training", minimum=0)
    learning_rate: float | None = setting(
        None, "default: 2e-4, or 1e-3 below 100M parameters", group="training", minimum=0.0, metavar="RATE"
    )
    lr_schedule: str = setting(
        "cosine", "learning-rate schedule", group="training", choices=("cosine", "linear", "constant")
    )
    warmup_ratio: float = setting(
        0.05, "warm-up, as a fraction of all steps", group="training", minimum=0.0, metavar="X"
    )
    weight_decay: float = setting(0.0, "AdamW's weight decay", group="training", minimum=0.0, metavar="X")
    max_grad_norm: float = setting(
        1.0, "gradient-norm clipping; 0 turns it off", group="training", minimum=0.0, metavar="X"
    )
    optimizer: str = setting(
        "adamw",
        "the 8-bit and paged ones need bitsandbytes on a GPU",
        group="training",
        choices=("adamw", "adamw-8bit", "paged-adamw-8bit"),
    )
    lora_plus_ratio: float | None = setting(
        None, "LoRA+: learning rate of B over that of A", group="training", minimum=1.0, metavar="X"
    )
    neftune_alpha: float | None = setting(
        None, "NEFTune: noise on the embeddings while training", group="training", minimum=0.0, metavar="X"
    )
    seed: int = setting(
        0, "random seed (held-out split, adapter init, row order, dropout, samples)", group="training", minimum=0
    )

    start_from: str | None = setting(
        None,
        "train a run or an adapter further, with its settings and a fresh optimizer",
        group="run",
        metavar="RUN",
        flag="--from",
    )
    verdict_texts: int = setting(
        20, "texts written at the end to see whether it worked; 0 = none", group="run", minimum=0
    )
    eval_every: int | None = setting(None, "evaluate every N steps; default: 4 times a run", group="run", minimum=1)
    early_stopping_patience: int | None = setting(
        None, "stop after N evaluations without improvement", group="run", minimum=1
    )
    save_every: int | None = setting(
        None, "save a checkpoint every N steps; default: at each evaluation", group="run", minimum=1
    )
    keep_checkpoints: int = setting(2, "number of checkpoints to keep", group="run", minimum=1)
    log_every: int = setting(1, "write a line to metrics.jsonl every N steps", group="run", minimum=1)
    output: str | None = setting(
        None, "the run's folder; default: runs/ with date and name", group="run", metavar="FOLDER"
    )
    force: bool = setting(
        False, "use --output even if a run is there (the old one is moved to FOLDER.old-1)", group="run"
    )
    report_to: str = setting(
        "none", "none, or any of tensorboard, wandb, trackio, separated by commas", group="run", metavar="NAMES"
    )
