"""Going on with a run: whose its checkpoints are, and which settings may be others than when it began.

A setting that is changed and then ignored is the worst of three ways: nobody is told. Here each change is refused, or
applied and said. What a step means must stay (the rows, their order and the batch they come in; the base; the shape of
the adapter and of the optimiser's state). What may change is how fast it learns, how long, where it runs, and how often
it looks, saves and tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from florilegium.config import TrainConfig, as_dict, current_settings, make_config, settings_of_run
from florilegium.errors import UsageError

if TYPE_CHECKING:
    from florilegium.runs.manifest import RunManifest  # these import torch, and the command line reads CHANGEABLE
    from florilegium.training.checkpoint import RunIdentity

CHANGEABLE = (
    "learning_rate", "lr_schedule", "warmup_ratio", "weight_decay", "max_grad_norm", "epochs", "max_steps",
    "early_stopping_patience", "lora_dropout", "neftune_alpha", "device", "dtype", "kernels", "memory", "parallel",
    "pipeline_stages", "micro_batch_tokens", "gpu_memory_limit", "eval_every", "save_every", "keep_checkpoints", "log_every",
    "report_to", "verdict_texts",
)  # fmt: skip
NOT_OF_THE_RUN = ("output", "force")  # where it lies: a run may be moved
WHERE_IT_LIES = ("data", "model", "held_out_file")  # so may its rows and its base, which are known by their digests
# after these, how much memory holds is not what the checkpoint remembers
REPACKS = ("device", "memory", "micro_batch_tokens", "gpu_memory_limit")


@dataclass(frozen=True)
class Change:
    """A setting that differs from what the checkpoint was trained with."""

    name: str
    before: object
    after: object

    def __str__(self) -> str:
        return f"changed {self.name} from {self.before} to {self.after}"


def identity(manifest: RunManifest, config: TrainConfig) -> RunIdentity:
    """What a checkpoint says of the run that it belongs to: the digests in the run's manifest.json, and all
    settings."""
    from florilegium.training.checkpoint import RunIdentity

    settings = {name: value for name, value in as_dict(config).items() if name not in NOT_OF_THE_RUN}
    base = manifest.base
    return RunIdentity(base.digest, base.tokenizer_digest, manifest.data.digest, manifest.template, settings)


def with_changes(written: Mapping[str, object], given: Mapping[str, object], source: str) -> TrainConfig:
    """The run's config.yaml with the settings `given` over it. Another device, or another
    way of several processes, chooses its kernels anew, another device its dtype too. Raises UsageError."""
    values = settings_of_run(written)
    make_config(values, source=source)
    given = current_settings(given)
    if given.get("batching") == "auto":  # which is what it was
        del given["batching"]
    other = any(
        given.get(name, values.get(name)) != values.get(name) for name in ("device", "parallel", "pipeline_stages")
    )
    fresh = {"kernels": "auto"} if other else {}
    if given.get("device", values.get("device")) != values.get("device"):
        fresh["dtype"] = "auto"  # what was chosen for the other device: float32 on a CPU has no fast kernels on a card
    return make_config({**values, **fresh, **given})


def compare(before: Mapping[str, object], now: TrainConfig) -> list[Change]:
    """Each setting that changed since the checkpoint. Raises UsageError for one that cannot change on the
    way."""
    changes = []
    before = settings_of_run(before)
    for name, value in as_dict(now).items():
        if name in NOT_OF_THE_RUN or name not in before or before[name] == value:
            continue
        if name not in CHANGEABLE + WHERE_IT_LIES:
            raise UsageError(
                f"--{name.replace('_', '-')} cannot change when resuming (this run uses {before[name]})",
                "Drop the flag, or start a new run",
            )
        changes.append(Change(name, before[name], value))
        if name == "epochs" and now.max_steps is not None and before.get("max_steps") == now.max_steps:
            raise UsageError(
                f"--epochs {value:g} would change nothing: this run uses --max-steps {now.max_steps}",
                "Change --max-steps",
            )
    return changes
