"""Flags that people bring from Transformers, PEFT, TRL, Axolotl, Unsloth, LLaMA-Factory, litgpt and llama.cpp.

SAME      means what a flag of ours means: it is understood, and not shown in --help
VALUES    how the values of such a flag are spelled elsewhere
SWITCHES  one setting of a flag of ours: `--load-in-4bit` is `--bits 4`. They take `true` and `false` after them too
ANSWERS   means nothing here, or nearly what a flag of ours means: (why, what to type)

A name belongs into SAME only where every value does there what it does here; else it gets an answer. Names are written
without `--`, words joined by hyphens; `_` is taken for `-`. `translate.py` applies the tables, to flags and to the keys of
a `--config` file alike."""

from __future__ import annotations

SAME_IN_TRAINING = {
    # the model and the data
    "base-model": "model", "model-id": "model", "model-name": "model", "model-name-or-path": "model",
    "model-path": "model", "pretrained-model-name-or-path": "model",
    "model-revision": "revision",
    "data-file": "data", "data-path": "data", "dataset": "data", "dataset-name": "data", "dataset-path": "data",
    "dataset-id": "data", "train-data": "data", "train-file": "data", "training-data": "data",
    "activation-memory": "memory", "train-on": "loss-on", "quantization-bit": "bits",
    "bnb-4bit-compute-dtype": "dtype", "compute-dtype": "dtype", "precision": "dtype",
    "torch-dtype": "dtype",
    "cutoff-len": "max-length", "max-len": "max-length", "max-seq-len": "max-length", "max-seq-length": "max-length",
    "max-sequence-length": "max-length", "model-max-length": "max-length", "sequence-len": "max-length",
    "eval-fraction": "held-out", "test-size": "held-out", "val-set-size": "held-out", "val-size": "held-out",
    "val-split": "held-out", "val-split-fraction": "held-out", "validation-split": "held-out",
    "validation-file": "held-out-file", "eval-dataset": "held-out-file", "eval-file": "held-out-file",
    "test-file": "held-out-file", "dataset-split": "split", "train-split": "split",
    "dataset-text-field": "text-column", "quote": "text-column", "quote-column": "text-column",
    "tag-column": "tags-column", "text-field": "text-column", "label-column": "tags-column",
    "target-column": "tags-column", "labels-column": "tags-column", "delimiter": "tags-separator",
    # the adapter
    "lora-dim": "lora-rank", "lora-r": "lora-rank", "peft-lora-r": "lora-rank", "r": "lora-rank",
    "peft-lora-alpha": "lora-alpha", "lora-modules": "target-modules", "lora-target": "target-modules",
    "lora-target-modules": "target-modules", "init-lora-weights": "lora-init", "use-rslora": "rslora",
    "use-dora": "dora", "loraplus-lr-ratio": "lora-plus-ratio",
    # how it trains
    "lr": "learning-rate", "num-epochs": "epochs", "num-train-epochs": "epochs", "train-epochs": "epochs",
    "max-train-steps": "max-steps", "num-steps": "max-steps", "train-steps": "max-steps",
    "effective-batch-size": "batch-size", "global-batch-size": "batch-size", "train-batch-size": "batch-size",
    "lr-scheduler": "lr-schedule", "lr-scheduler-type": "lr-schedule", "scheduler": "lr-schedule",
    "lr-warmup-ratio": "warmup-ratio", "clip-grad-norm": "max-grad-norm", "grad-clip": "max-grad-norm",
    "gradient-clip-val": "max-grad-norm", "gradient-clipping": "max-grad-norm", "optim": "optimizer",
    "wd": "weight-decay", "neftune-noise-alpha": "neftune-alpha",
    "random-seed": "seed", "random-state": "seed",
    "n-gpus": "gpus", "nproc-per-node": "gpus", "num-gpus": "gpus", "num-processes": "gpus",
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

_BATCH = "--batch-size counts all quotes of an optimizer step; the micro-batch size is automatic"
_TEMPLATE = "the text of a row is made by --template"
_WHEN = "evaluations and checkpoints come every N steps"
_KERNELS = "packed sequences have attention kernels of their own"
_PACKED = "quotes are always packed, without attention between them"
_DEVICES = "the device is chosen by --device"

ANSWERS_IN_TRAINING = {
    # batches
    "per-device-train-batch-size": (_BATCH, "Type --batch-size N"),
    "per-gpu-train-batch-size": (_BATCH, "Type --batch-size N"),
    "micro-batch-size": (_BATCH, "Type --batch-size N"),
    "gradient-accumulation-steps": (_BATCH, "Type --batch-size N"),
    "gradient-accumulation": (_BATCH, "Type --batch-size N"),
    "accumulate-grad-batches": (_BATCH, "Type --batch-size N"),
    "per-device-eval-batch-size": ("evaluation chooses its own batches", "Leave it out"),
    "eval-batch-size": ("evaluation chooses its own batches", "Leave it out"),
    "auto-find-batch-size": ("memory is planned, and halved if it runs out", "Leave it out"),
    "packing": (_PACKED, "Leave it out"),
    "sample-packing": (_PACKED, "Leave it out"),
    "padding-free": (_PACKED, "Leave it out"),
    "group-by-length": (_PACKED, "Leave it out"),
    "pad-to-sequence-len": (_PACKED, "Leave it out"),
    "block-size": (_PACKED, "Leave it out; --max-length cuts long quotes"),
    "train-on-inputs": ("--loss-on says which tokens are trained", "Type --loss-on all, or --loss-on tags"),
    "completion-only-loss": ("--loss-on says which tokens are trained", "Type --loss-on tags"),
    "assistant-only-loss": ("--loss-on says which tokens are trained", "Type --loss-on tags"),
    # steps and rates
    "warmup-steps": ("the warm-up is a fraction of all steps", "Type --warmup-ratio 0.05"),
    "num-warmup-steps": ("the warm-up is a fraction of all steps", "Type --warmup-ratio 0.05"),
    "lr-warmup-steps": ("the warm-up is a fraction of all steps", "Type --warmup-ratio 0.05"),
    "min-lr": ("all schedules but constant decay to 0", "Leave it out"),
    "lr-scheduler-kwargs": ("the schedules have no further settings", "Leave it out"),
    "adam-beta1": ("AdamW's betas are 0.9 and 0.999", "Leave it out"),
    "adam-beta2": ("AdamW's betas are 0.9 and 0.999", "Leave it out"),
    "adam-epsilon": ("AdamW's epsilon is 1e-8", "Leave it out"),
    "label-smoothing-factor": ("there is no label smoothing", "Leave it out"),
    "data-seed": ("--seed decides the order of the rows too", "Type --seed N"),
    # precision and memory
    "fp16": ("float16 is taken where a card has no bfloat16", "Leave it out, or type --dtype float16"),
    "half": ("float16 is taken where a card has no bfloat16", "Leave it out, or type --dtype float16"),
    "tf32": ("matrix products are computed in --dtype", "Leave it out"),
    "quantize": ("--bits says how the base is stored", "Type --bits 8, or --bits 4 for NF4"),
    "quantization": ("--bits says how the base is stored", "Type --bits 8, or --bits 4 for NF4"),
    "quantization-method": ("--bits says how the base is stored", "Type --bits 8, or --bits 4 for NF4"),
    "bnb-4bit-quant-type": ("4 bits are always NF4", "Type --bits 4"),
    "bnb-4bit-use-double-quant": ("NF4 is always quantized doubly", "Type --bits 4"),
    "use-double-quant": ("NF4 is always quantized doubly", "Type --bits 4"),
    "gradient-checkpointing-kwargs": ("--memory lean has no further settings", "Leave it out"),
    "max-memory": ("--gpu-memory-limit is the GiB of the GPU that a run may use", "Type --gpu-memory-limit GIB"),
    "attn-implementation": (_KERNELS, "Leave it out; see --kernels"),
    "flash-attention": (_KERNELS, "Leave it out; see --kernels"),
    "flash-attn": (_KERNELS, "Leave it out; see --kernels"),
    "use-flash-attention-2": (_KERNELS, "Leave it out; see --kernels"),
    "use-liger-kernel": ("the kernels here are chosen by --kernels", "Leave it out"),
    "torch-compile": ("the kernels here are compiled by themselves", "Leave it out"),
    "device-map": (_DEVICES, "Type --device cuda, or set CUDA_VISIBLE_DEVICES"),
    "cpu": (_DEVICES, "Type --device cpu"),
    "no-cuda": (_DEVICES, "Type --device cpu"),
    "use-cpu": (_DEVICES, "Type --device cpu"),
    "deepspeed": ("DeepSpeed is not used: --gpus N trains on several", "Type --gpus N; see --bits, --memory and --parallel"),
    "fsdp": ("FSDP is not used: it cannot shard int8 weights", "Leave it out; --parallel pipeline spreads a BLOOM over several GPUs"),
    # the adapter
    "use-peft": ("LoRA is always used", "Leave it out"),
    "use-lora": ("LoRA is always used", "Leave it out"),
    "peft-method": ("LoRA is the method that is offered", "Leave it out; see --dora and --rslora"),
    "peft-type": ("LoRA is the method that is offered", "Leave it out; see --dora and --rslora"),
    "lora-target-linear": ("--target-modules says which linears are trained", "Type --target-modules all-linear"),
    "adapter": ("LoRA is the method that is offered", "Leave it out; to train one further: --from RUN"),
    "plot-loss": ("every run draws its loss in report.html", "Leave it out"),
    "overwrite-cache": ("rows are read again each time; there is no cache", "Leave it out"),
    "loftq-config": ("LoftQ is not offered", "Leave it out; see --lora-init"),
    "finetuning-type": ("LoRA is the method that is offered", "Leave it out; see --dora and --rslora"),
    "lora-bias": ("biases are not trained", "Leave it out"),
    "lora-task-type": ("the task is always CAUSAL_LM", "Leave it out"),
    "task-type": ("the task is always CAUSAL_LM", "Leave it out"),
    "modules-to-save": ("only the adapter is trained", "Leave it out; see --target-modules"),
    "lora-modules-to-save": ("only the adapter is trained", "Leave it out; see --target-modules"),
    # the data
    "columns": (_TEMPLATE, 'Type --template "{COLUMN} ->: {tags}"'),
    "prompt-template": (_TEMPLATE, 'Type --template "{quote} ->: {tags}"'),
    "chat-template": (_TEMPLATE, 'Type --template "{quote} ->: {tags}"'),
    "validation-split-percentage": ("--held-out is a fraction, not a percentage", "Type --held-out 0.05"),
    "dataset-config-name": ("DATA names it", "Type a Hub id, or a file, as DATA"),
    "max-train-samples": ("all rows of DATA are used", "Type --max-steps N, or give a shorter file"),
    "max-samples": ("all rows of DATA are used", "Type --max-steps N, or give a shorter file"),
    "streaming": ("all rows of DATA are read at once", "Leave it out"),
    "preprocessing-num-workers": ("rows are prepared in one process", "Leave it out"),
    "dataset-num-proc": ("rows are prepared in one process", "Leave it out"),
    "dataloader-num-workers": ("rows are prepared in one process", "Leave it out"),
    "num-workers": ("rows are prepared in one process", "Leave it out"),
    "remove-unused-columns": ("only the template's columns are read", "Leave it out"),
    # the run
    "stage": ("there is one way to train", "Leave it out"),
    "do-train": ("`florilegium train` trains", "Leave it out"),
    "do-eval": ("held-out rows are evaluated while it trains", "Leave it out; see --eval-every"),
    "eval-strategy": (_WHEN, "Type --eval-every N"),
    "evaluation-strategy": (_WHEN, "Type --eval-every N"),
    "save-strategy": (_WHEN, "Type --save-every N"),
    "logging-strategy": (_WHEN, "Type --log-every N"),
    "load-best-model-at-end": ("the adapter with the lowest held-out loss is always kept", "Leave it out"),
    "metric-for-best-model": ("the best adapter is the one with the lowest held-out loss", "Leave it out"),
    "resume-from-checkpoint": ("a stopped run has a command of its own", "Type: florilegium resume RUN"),
    "resume": ("a stopped run has a command of its own", "Type: florilegium resume RUN"),
    "run-name": ("a run is named by its folder", "Type --output runs/NAME"),
    "wandb-project": ("the project's name is read from WANDB_PROJECT", "Type --report-to wandb"),
    "logging-dir": ("all that a run writes is in its folder", "Type --output FOLDER"),
    "disable-tqdm": ("the progress bar is shown on a terminal only", "Type 2>/dev/null after the command"),
    "push-to-hub": ("training sends nothing anywhere", "Train first, then: florilegium push runs/NAME OWNER/NAME"),
    "hub-model-id": ("training sends nothing anywhere", "Train first, then: florilegium push runs/NAME OWNER/NAME"),
    "trust-remote-code": ("code from a model's repository is never run", "Leave it out"),
    "hf-token": ("the token is read from the environment", "Set HF_TOKEN, or type: hf auth login"),
    "token": ("the token is read from the environment", "Set HF_TOKEN, or type: hf auth login"),
    "use-auth-token": ("the token is read from the environment", "Set HF_TOKEN, or type: hf auth login"),
    "local-rank": ("the process's rank is read from the environment", "Leave it out"),
    "verbose": ("there is one level of messages", "Leave it out; --debug shows tracebacks"),
    "quiet": ("progress goes to stderr", "Type 2>/dev/null after the command"),
}  # fmt: skip

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

_TOKENS = "generation is limited by new tokens, the prompt not counted"
_SAMPLING = "sampling is set by --temperature, --top-p, --top-k and --repetition-penalty"

ANSWERS_IN_GENERATION = {
    "prompt": ("the prompt stands by itself", "Type: florilegium generate 'The sea'"),
    "input": ("the prompt stands by itself", "Type: florilegium generate 'The sea'"),
    "max-length": (_TOKENS, "Type --max-new-tokens N"),
    "length": (_TOKENS, "Type --max-new-tokens N"),
    "do-sample": ("texts are sampled unless the temperature is 0", "Leave it out, or type --temperature 0"),
    "num-beams": ("there is no beam search", "Leave it out, or type --temperature 0"),
    "min-p": (_SAMPLING, "Type --top-p 0.9"),
    "typical-p": (_SAMPLING, "Type --top-p 0.9"),
    "presence-penalty": (_SAMPLING, "Type --repetition-penalty 1.1"),
    "frequency-penalty": (_SAMPLING, "Type --repetition-penalty 1.1"),
    "no-repeat-ngram-size": (_SAMPLING, "Type --repetition-penalty 1.1"),
    "stop": ("a quote ends at its end-of-text token", "Leave it out"),
    "output": ("texts are written to stdout", "Type > FILE after the command"),
    "output-file": ("texts are written to stdout", "Type > FILE after the command"),
    "batch-size": ("batches are chosen by the free memory", "Leave it out"),
    "trust-remote-code": ("code from a model's repository is never run", "Leave it out"),
}

SAME_IN_EVALUATION = {
    "adapter": "run", "adapter-path": "run", "peft-model": "run", "base-model": "model", "model-name-or-path": "model",
    "dataset": "data", "dataset-name": "data", "num-samples": "generations", "texts": "generations",
    "limit": "rows", "max-rows": "rows", "max-eval-samples": "rows", "forgetting-text": "general",
    "compare-base": "base", "quantization-bit": "bits",
}  # fmt: skip

SWITCHES_IN_EVALUATION = {"load-in-8bit": ("bits", "8"), "load-in-4bit": ("bits", "4")}

COMMANDS = {
    "compare": "report", "eval": "evaluate", "finetune": "train", "fine-tune": "train", "sft": "train", "list": "runs",
    "ls": "runs", "env": "doctor", "upload": "push",
}  # fmt: skip
