"""What moves the adapter: AdamW (torch's, or bitsandbytes' 8-bit and paged ones), its learning rate, and the
schedule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.optim.optimizer import StateDict

from florilegium.config import TrainConfig
from florilegium.errors import UsageError

if TYPE_CHECKING:
    from peft import PeftModel
    from torch.optim.lr_scheduler import LambdaLR

SMALL_MODEL = 100_000_000


def choose_learning_rate(config: TrainConfig, num_parameters: int) -> float:
    """The rate asked for, or 2e-4 (the usual one for LoRA), or 1e-3 for a base below 100M parameters, whose few and
    small layers need larger changes: in 200 steps the seedling learns to tag with it, and not with 2e-4."""
    if config.learning_rate is not None:
        return config.learning_rate
    return 2e-4 if num_parameters >= SMALL_MODEL else 1e-3


def check_optimizer(name: str, device: torch.device) -> None:
    """Raises UsageError for an optimiser that does not run on `device`."""
    if name != "adamw" and device.type != "cuda":
        raise UsageError(
            f"--optimizer {name} needs a CUDA device", "Use --optimizer adamw: on an adapter its state is small"
        )


def make_optimizer(model: torch.nn.Module, config: TrainConfig, learning_rate: float) -> torch.optim.Optimizer:
    """AdamW over what trains, its state in float32 (torch) or 8 bits (bitsandbytes); of a pipeline's stage over what is
    here of it. Raises UsageError for one that is not here."""
    device = next(p.device for p in model.parameters() if not p.is_meta)
    kind, extra = _optimizer_class(config.optimizer, device)
    groups = _groups(model, config, learning_rate)
    own = [{**group, "params": [p for p in group["params"] if not p.is_meta]} for group in groups]
    optimizer: torch.optim.Optimizer = kind(
        own, lr=learning_rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=config.weight_decay, **extra
    )
    return optimizer


def parameter_groups(model: torch.nn.Module, config: TrainConfig) -> list[list[torch.nn.Parameter]]:
    """All that trains, in the order and the groups of one process's optimizer: a pipeline's stage has those of others on
    the meta device."""
    return [list(group["params"]) for group in _groups(model, config, 0.0)]


class _Grouped:
    """In an optimizer's place: PEFT makes the groups of LoRA+ and the optimizer in one function."""

    def __init__(self, groups: Sequence[dict[str, Any]], **_: object) -> None:
        self.groups = groups


def _groups(model: torch.nn.Module, config: TrainConfig, learning_rate: float) -> Sequence[dict[str, Any]]:
    if not config.lora_plus_ratio:
        return [{"params": [p for p in model.parameters() if p.requires_grad]}]
    from peft.optimizers import create_loraplus_optimizer

    made: Any = create_loraplus_optimizer(
        cast("PeftModel", model),
        cast(Any, _Grouped),
        lr=learning_rate,
        loraplus_lr_ratio=config.lora_plus_ratio,
        loraplus_weight_decay=config.weight_decay,
    )
    return cast("_Grouped", made).groups


def _optimizer_class(name: str, device: torch.device) -> tuple[type[Any], dict[str, bool]]:
    if name == "adamw":
        # One fused kernel a step on CUDA; on the CPU the plain loop, whose bits do not depend on the version.
        return torch.optim.AdamW, {"fused": True} if device.type == "cuda" else {}
    check_optimizer(name, device)
    import bitsandbytes as bnb

    return (bnb.optim.AdamW8bit if name == "adamw-8bit" else bnb.optim.PagedAdamW8bit), {}


_KERNEL = ("fused", "foreach", "capturable")


def make_lr_scheduler(optimizer: torch.optim.Optimizer, config: TrainConfig, num_steps: int) -> LambdaLR:
    """Transformers' schedule: a rise over `--warmup` of the steps, then cosine, linear or constant."""
    from transformers import get_scheduler

    name = "constant_with_warmup" if config.lr_schedule == "constant" else config.lr_schedule
    scheduler: LambdaLR = get_scheduler(
        name, optimizer, num_warmup_steps=round(config.warmup_ratio * num_steps), num_training_steps=num_steps
    )
    return scheduler


def restore_optimizer(
    optimizer: torch.optim.Optimizer,
    schedule: LambdaLR,
    optimizer_state: StateDict,
    schedule_state: StateDict,
) -> None:
    """Puts a checkpoint's optimiser back, at the checkpoint's step, with the rates that the config has now.

    torch's own `load_state_dict` brings the rate and the decay of the checkpoint along, and whoever asked for others is
    never told that nothing changed. With the same config this gives the same bits: the rate is base rate times a
    function of the step either way."""
    asked = [{name: group[name] for name in ("initial_lr", "weight_decay")} for group in optimizer.param_groups]
    # Which kernel steps is this device's, not the checkpoint's; it decides, too, where torch puts the count of steps.
    own = [{name: group[name] for name in _KERNEL if name in group} for group in optimizer.param_groups]
    groups = [{**saved, **kernel} for saved, kernel in zip(optimizer_state["param_groups"], own, strict=True)]
    optimizer.load_state_dict({**optimizer_state, "param_groups": groups})
    bases = [group["initial_lr"] for group in asked]
    schedule.load_state_dict({**schedule_state, "base_lrs": bases})
    rates = [base * rule(schedule.last_epoch) for base, rule in zip(bases, schedule.lr_lambdas, strict=True)]
    for group, values, rate in zip(optimizer.param_groups, asked, rates, strict=True):
        group.update(values, lr=rate)
    schedule._last_lr = rates
