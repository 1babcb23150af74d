"""From prepared rows and base to something that can take a step: the adapter attached, the plan made, its kernels in
place, and a Trainer of all that. Nothing is written."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from florilegium.config import TrainConfig
from florilegium.model import (
    ForwardOptions,
    LoadedModel,
    ParameterCount,
    attach_adapter,
    count_parameters,
    fast_paths,
)
from florilegium.model.adapter_config import WEIGHTS, adapted_modules
from florilegium.model.adapter_loading import start_from_adapter
from florilegium.model.families.other import recompute_activations
from florilegium.model.fused_layers import FusedLayers
from florilegium.model.noise import make_embedding_noisy
from florilegium.runs.plan import ExecutionPlan, plan_execution
from florilegium.runs.prepare import Prepared
from florilegium.storage.run_directory import adapter_folder, find_run
from florilegium.training import (
    ALONE,
    Distributed,
    SharedStop,
    Trainer,
    check_optimizer,
    gradients,
    make_lr_scheduler,
    make_optimizer,
)
from florilegium.training.pipeline import Pipeline, replicas_of
from florilegium.training.pipeline_plan import check_adapter
from florilegium.training.recording import recording_unsupported

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class ReadyRun:
    """All that a run needs before its folder exists."""

    prepared: Prepared
    plan: ExecutionPlan
    loaded: LoadedModel
    options: ForwardOptions
    count: ParameterCount


def make_ready(prepared: Prepared, *, resumes: bool = False, distributed: Distributed = ALONE) -> ReadyRun:
    """Attaches the adapter, decides how the run is executed, and puts the kernels in place. A run that `resumes` has its
    weights from a checkpoint, and needs those of the run it started from no more. Raises UsageError, ModelError and
    ResourceError for what cannot work."""
    check_optimizer(prepared.config.optimizer, prepared.base.device)
    torch.manual_seed(prepared.config.seed)  # before the adapter exists: same seed, same bits
    start = None
    if prepared.config.start_from and not resumes:
        start = adapter_folder(find_run(prepared.config.start_from))
    like = prepared.adapter_on if start is None else adapted_modules(start / WEIGHTS)
    loaded = LoadedModel(prepared.base, attach_adapter(prepared.base, prepared.config, like))
    if start is not None:
        start_from_adapter(prepared.base, loaded.model, start)
    check_adapter(loaded, prepared.stages)
    plan = plan_execution(prepared, loaded, distributed)
    loaded = replace(loaded, kernels=plan.kernels)
    return ReadyRun(prepared, plan, loaded, install_kernels(loaded, plan), count_parameters(loaded.model))


def install_kernels(loaded: LoadedModel, plan: ExecutionPlan) -> ForwardOptions:
    """Puts the plan's kernels in place, and says how the forward pass of training takes them."""
    config = plan.config
    fast_paths.install_kernels(loaded.model, plan.kernels)
    if loaded.base.host is not None and plan.memory is not None:
        loaded.base.host.keep_on_device(len(loaded.base.host) - plan.memory.offloaded)
    stack = None if plan.memory is None else fast_paths.make_block_stack(loaded, plan.memory, list(plan.lengths))
    layers = None
    if "fused-layers" in plan.kernels:
        layers = FusedLayers(fast_paths.make_layer_runner(loaded, plan.longest))
    return ForwardOptions(plan.kernels, plan.recompute, config.neftune_alpha, stack, plan.documents.mask, layers)


def make_trainer(ready: ReadyRun, distributed: Distributed = ALONE, stop: SharedStop | None = None) -> Trainer:
    plan, model, config = ready.plan, ready.loaded.model, ready.plan.config
    optimizer = make_optimizer(model, config, config.learning_rate or 0.0)
    rate = make_lr_scheduler(optimizer, config, plan.length.num_steps)
    _prepare_other_family(config, ready)
    trainer = Trainer(
        ready.loaded,
        config,
        ready.options,
        plan.packing,
        optimizer,
        rate,
        distributed=distributed,
        stop=stop,
        pipeline=_pipeline(ready, distributed) if ready.prepared.stages else None,
        tile=plan.tile,
    )
    # Of a pipeline several micro-batches are under way at once: a recorded graph has memory for one.
    fused = plan.memory is not None or ready.options.fused_layers is not None
    if fused and trainer.device.type == "cuda" and trainer.pipeline is None:
        kept = [torch.zeros_like(parameter) for parameter in trainer.parameters]  # where the recorded graph adds to
        for parameter, gradient in zip(trainer.parameters, kept, strict=True):
            parameter.grad = gradient
        runner = fast_paths.graph_runner(lambda inputs: gradients(trainer, inputs), kept)
        rows = ready.prepared.training.examples
        if ready.options.fused_layers is not None:
            trainer.unrecorded = recording_unsupported(trainer, runner, rows)
        if not trainer.unrecorded:
            trainer.replay = runner
    return trainer


def _pipeline(ready: ReadyRun, distributed: Distributed) -> Pipeline:
    stages = ready.prepared.stages
    return Pipeline(distributed, stages, ready.plan.micro_batches, replicas_of(distributed, len(stages)))


def _prepare_other_family(config: TrainConfig, ready: ReadyRun) -> None:
    """Noise on the embeddings and recomputed activations, where the forward pass is not ours but Transformers'."""
    loaded = ready.loaded
    if loaded.base.packs:
        return
    if config.neftune_alpha:
        make_embedding_noisy(loaded.model, config.neftune_alpha)
    if config.memory == "lean":
        layers = ready.options.fused_layers
        recompute_activations(loaded.model, None if layers is None else layers.runner.checkpoint_contexts)
