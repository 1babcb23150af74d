"""From prepared rows and base to something that can take a step: the adapter attached, the plan made, its kernels in
place, and a Trainer of all that. Nothing is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from florilegium.config import TrainConfig
from florilegium.model import ParameterCount, Walk, attach_adapter, check_adapter, count_parameters
from florilegium.model import fast_paths as paths
from florilegium.model.adapter_loading import start_from_adapter
from florilegium.model.families.bloom import bloom_model
from florilegium.model.families.other import add_neftune, recompute_activations
from florilegium.runs.plan import ExecutionPlan, plan_execution
from florilegium.runs.prepare import Prepared
from florilegium.storage.run_directory import adapter_folder, find_run
from florilegium.training import Trainer, check_optimizer, gradients, make_optimizer, make_schedule


@dataclass(frozen=True)
class ReadyRun:
    """All that a run needs before its folder exists."""

    prepared: Prepared
    plan: ExecutionPlan
    model: Any  # the base with its adapter: PEFT's own class
    count: ParameterCount


def make_ready(prepared: Prepared) -> ReadyRun:
    """Attaches the adapter, decides how the run is executed, and puts the kernels in place. Raises UsageError,
    ModelError and ResourceError for what cannot work."""
    check_adapter(prepared.base, prepared.config)
    check_optimizer(prepared.config.optimizer, prepared.base.device)
    torch.manual_seed(prepared.config.seed)  # before the adapter exists: same seed, same bits
    model = attach_adapter(prepared.base, prepared.config)
    if prepared.config.start_from:
        start_from_adapter(prepared.base, model, adapter_folder(find_run(prepared.config.start_from)))
    plan = plan_execution(prepared, model)
    install_kernels(model, plan)
    return ReadyRun(prepared, plan, model, count_parameters(model))


def install_kernels(model: Any, plan: ExecutionPlan) -> None:
    """Swaps the plan's kernels into the model."""
    paths.install(model, plan.kernels)
    if plan.memory is not None:
        memory = plan.memory
        paths.install_trunk(bloom_model(model), memory.full, memory.middle, memory.copies, list(plan.lengths))


def make_trainer(ready: ReadyRun, accelerator: Any) -> Trainer:
    plan, base, model = ready.plan, ready.prepared.base, ready.model
    config = plan.config
    optimizer = make_optimizer(model, config, config.learning_rate or 0.0)
    rate = make_schedule(optimizer, config, plan.schedule.num_steps)
    _prepare_other_family(config, base.packs, model)
    walk = Walk(plan.kernels, config.memory == "lean", config.neftune_alpha)
    trainer = Trainer(base, model, config, walk, plan.packing, accelerator.prepare(optimizer), rate, accelerator)
    if plan.memory is not None:
        kept = [torch.zeros_like(parameter) for parameter in trainer.parameters]  # where the recorded graph adds to
        for parameter, gradient in zip(trainer.parameters, kept, strict=True):
            parameter.grad = gradient
        trainer.replay = paths.replay(lambda inputs: gradients(trainer, inputs), kept)
    return trainer


def _prepare_other_family(config: TrainConfig, packs: bool, model: Any) -> None:
    """Noise on the embeddings and recomputed activations, where the forward pass is not ours but Transformers'."""
    if packs:
        return
    if config.neftune_alpha:
        add_neftune(model, config.neftune_alpha)
    if config.memory == "lean":
        recompute_activations(model)
