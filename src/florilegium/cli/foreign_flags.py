"""Flags that people bring from Transformers, PEFT, TRL, Axolotl, Unsloth, LLaMA-Factory, litgpt and llama.cpp.

SAME      means what a flag of ours means: it is understood, and not shown in --help
VALUES    how the values of such a flag are spelled elsewhere
SWITCHES  one setting of a flag of ours: `--load-in-4bit` is `--bits 4`. They take `true` and `false` after them too
SHORT     one letter for a flag

A name belongs into SAME only where every value does there what it does here; else it gets an answer
(`foreign_answers.py`). Names are written
without `--`, words joined by hyphens; `_` is taken for `-`. `translate.py` applies the tables, to flags and to the keys of
a `--config` file alike."""

from __future__ import annotations

SAME_IN_TRAINING = {
    # the model and the data
    "base-model": "model", "base-model-name-or-path": "model", "model-id": "model", "model-name": "model",
    "model-name-or-path": "model", "model-path": "model", "pretrained-model-name-or-path": "model",
    "model-revision": "revision",
    "data-file": "data", "data-path": "data", "dataset": "data", "dataset-name": "data", "dataset-path": "data",
    "dataset-id": "data", "train-data": "data", "train-file": "data", "training-data": "data",
    "activation-memory": "memory", "train-on": "loss-on", "quantization-bit": "bits",
    "bnb-4bit-compute-dtype": "dtype", "compute-dtype": "dtype", "mixed-precision": "dtype", "precision": "dtype",
    "torch-dtype": "dtype",
    "cutoff-len": "max-length", "max-len": "max-length", "max-seq-len": "max-length", "max-seq-length": "max-length",
    "max-sequence-length": "max-length", "model-max-length": "max-length", "seq-len": "max-length",
    "seq-length": "max-length", "sequence-len": "max-length",
    "eval-fraction": "held-out", "test-size": "held-out", "val-set-size": "held-out", "val-size": "held-out",
    "val-split": "held-out", "val-split-fraction": "held-out", "validation-split": "held-out",
    "validation-file": "held-out-file", "eval-dataset": "held-out-file", "eval-file": "held-out-file",
    "test-file": "held-out-file", "dataset-split": "split", "train-split": "split",
    "dataset-text-field": "text-column", "quote": "text-column", "quote-column": "text-column",
    "tag-column": "tags-column", "text-field": "text-column", "label-column": "tags-column",
    "target-column": "tags-column", "labels-column": "tags-column",
    # the adapter
    "lora-dim": "lora-rank", "lora-r": "lora-rank", "peft-lora-r": "lora-rank", "r": "lora-rank",
    "peft-lora-alpha": "lora-alpha", "lora-modules": "target-modules", "lora-target": "target-modules",
    "lora-target-modules": "target-modules", "init-lora-weights": "lora-init", "use-rslora": "rslora",
    "use-dora": "dora", "loraplus-lr-ratio": "lora-plus-ratio", "peft-use-dora": "dora", "peft-use-rslora": "rslora",
    # how it trains
    "lr": "learning-rate", "num-epochs": "epochs", "num-train-epochs": "epochs", "train-epochs": "epochs",
    "max-epochs": "epochs", "n-epochs": "epochs", "steps": "max-steps",
    "max-train-steps": "max-steps", "num-steps": "max-steps", "train-steps": "max-steps",
    "effective-batch-size": "batch-size", "global-batch-size": "batch-size", "train-batch-size": "batch-size",
    "lr-scheduler": "lr-schedule", "lr-scheduler-type": "lr-schedule", "scheduler": "lr-schedule",
    "lr-warmup-ratio": "warmup-ratio", "clip-grad-norm": "max-grad-norm", "grad-clip": "max-grad-norm",
    "gradient-clip-val": "max-grad-norm", "gradient-clipping": "max-grad-norm", "optim": "optimizer",
    "wd": "weight-decay", "neftune-noise-alpha": "neftune-alpha",
    "random-seed": "seed", "random-state": "seed",
    "n-gpu": "gpus", "n-gpus": "gpus", "nproc-per-node": "gpus", "num-gpus": "gpus", "num-processes": "gpus",
    # the run
    "eval-interval": "eval-every", "eval-steps": "eval-every", "save-interval": "save-every",
    "save-steps": "save-every", "log-interval": "log-every", "logging-steps": "log-every",
    "save-total-limit": "keep-checkpoints", "early-stopping": "early-stopping-patience",
    "early-stopping-steps": "early-stopping-patience", "out-dir": "output", "output-dir": "output",
    "output-path": "output", "save-dir": "output", "move-existing": "force", "overwrite": "force",
    "overwrite-output-dir": "force", "log-to": "report-to", "tracker": "report-to",
}  # fmt: skip

VALUES = {
    "dtype": {"bf16": "bfloat16", "fp32": "float32", "bf16-mixed": "bfloat16", "bf16-true": "bfloat16"},
    "lr-schedule": {"constant_with_warmup": "constant"},
    "optimizer": {
        "adamw_torch": "adamw", "adamw_torch_fused": "adamw", "adamw_8bit": "adamw-8bit",
        "adamw_bnb_8bit": "adamw-8bit", "paged_adamw_8bit": "paged-adamw-8bit",
    },
    "target-modules": {"all": "all-linear"},
    "memory": {"keep": "fast", "recompute": "lean"},
    "split-by": {"cluster": "near-duplicates"},
    "lora-init": {"true": "default"},
    "report-to": {"no": "none"},
}  # fmt: skip

# name -> (flag, value): what the switch sets. `false` after it leaves the setting alone.
SWITCHES = {
    "load-in-8bit": ("bits", "8"),
    "load-in-4bit": ("bits", "4"),
    "qlora": ("bits", "4"),
    "bf16": ("dtype", "bfloat16"),
    "gradient-checkpointing": ("memory", "lean"),
    "use-gradient-checkpointing": ("memory", "lean"),
    "activation-checkpointing": ("memory", "lean"),
    "train-on-completions-only": ("loss-on", "tags"),
    "wandb": ("report-to", "wandb"),
    "use-wandb": ("report-to", "wandb"),
    "trackio": ("report-to", "trackio"),
}

SAME_IN_GENERATION = {
    "adapter": "run", "adapter-model": "run", "adapter-name-or-path": "run", "adapter-path": "run", "lora": "run",
    "lora-path": "run", "lora-weights": "run", "peft-model": "run",
    "base-model": "model", "model-name-or-path": "model", "model-path": "model",
    "count": "n", "n": "n", "num-return-sequences": "n", "num-samples": "n", "num-texts": "n",
    "max-tokens": "max-new-tokens", "n-predict": "max-new-tokens", "max-gen-len": "max-new-tokens",
    "temp": "temperature", "repeat-penalty": "repetition-penalty", "random-seed": "seed",
    "quantization-bit": "bits", "prompt-file": "prompts", "prompts-file": "prompts",
    "no-copies": "novel-only", "compare-base": "base", "chat": "interactive",
}  # fmt: skip

SWITCHES_IN_GENERATION = {"load-in-8bit": ("bits", "8"), "load-in-4bit": ("bits", "4"), "greedy": ("temperature", "0")}

SAME_IN_EVALUATION = {
    "adapter": "run", "adapter-path": "run", "peft-model": "run", "base-model": "model", "model-name-or-path": "model",
    "dataset": "data", "dataset-name": "data", "num-samples": "generations", "texts": "generations",
    "limit": "rows", "max-rows": "rows", "max-eval-samples": "rows", "forgetting-text": "general",
    "compare-base": "base", "quantization-bit": "bits",
}  # fmt: skip

SWITCHES_IN_EVALUATION = {"load-in-8bit": ("bits", "8"), "load-in-4bit": ("bits", "4")}

SAME_IN_EXPORT = {
    "base-model": "model", "out-dir": "output", "outfile": "output", "output-dir": "output", "outtype": "type",
    "quantization-method": "type",
}  # fmt: skip

# One letter, for the flags that have it.
SHORT = {
    "-i": "--interactive", "-m": "--model", "-o": "--output", "-q": "--quiet", "-r": "--run", "-s": "--seed",
    "-t": "--temperature", "-v": "--verbose",
}  # fmt: skip

COMMANDS = {
    "compare": "report", "eval": "evaluate", "finetune": "train", "fine-tune": "train", "sft": "train", "list": "runs",
    "ls": "runs", "env": "doctor", "upload": "push", "merge": "export", "merge-lora": "export", "api": "serve",
    "infer": "generate", "inference": "generate",
}  # fmt: skip
