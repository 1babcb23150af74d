"""One optimiser step, and what it reports once the device has done it.

A step is `--batch-size` quotes however they are packed. Its loss is the sum over all targets of the step, divided
once by their number, so 16 quotes in one batch and in sixteen give the same gradient. On CUDA the host asks nothing of
the device in a step: gradients are replayed from a recorded graph where the fused blocks run (`cuda_graph.py`), AdamW skips
the step by itself where loss or gradient is NaN or infinite, and the metrics come back while the next step runs.

Where several processes train, each takes its share of the step's rows, and gradients and losses are summed between the
backward pass and the clipping (`step_sums.py`). Where each holds some of the blocks, gradients stay where they are
(`pipeline.py`)."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch

from florilegium.model import rows_drawn, token_losses
from florilegium.tokens import Batch
from florilegium.training.guards import check_step
from florilegium.training.memory import peak_memory
from florilegium.training.metrics import StepResult
from florilegium.training.pipeline import Pipeline
from florilegium.training.step_sums import SharedStop, StepCounts, StepSums, padding_of, seed_of, sum_stages, sum_step
from florilegium.training.trainer import Trainer

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class HostMetrics:
    """What the host knows of a step before the device has done it. `number` counts from 1."""

    number: int
    began: float
    learning_rate: float
    tokens: int
    padding_share: float


class StartedStep:
    """A step that was started. `result` waits for it, and raises DivergedError if it was not taken."""

    def __init__(
        self,
        host: HostMetrics,
        loss: torch.Tensor,
        grad_norm: torch.Tensor,
        device: torch.device,
        sums: StepSums | None = None,
        stop: SharedStop | None = None,
    ) -> None:
        self.host, self.device, self.stop = host, device, stop
        both = torch.stack([loss, grad_norm.float()])
        if sums is not None:
            both = torch.cat([both, sums.rest])
        self.done: torch.cuda.Event | None = None
        self.measured = both
        if device.type == "cuda":
            self.measured = torch.empty(len(both), dtype=torch.float32, pin_memory=True)
            self.measured.copy_(both, non_blocking=True)
            self.done = torch.cuda.current_stream().record_event()

    def result(self) -> StepResult:
        if self.done is not None:
            self.done.synchronize()
        host, (loss, grad_norm, *rest) = self.host, self.measured.tolist()
        check_step(host.number, loss, grad_norm)
        padding = padding_of(rest) if rest else host.padding_share
        if self.stop is not None:
            self.stop.read(rest[2:])
        return StepResult(loss, grad_norm, host.learning_rate, host.tokens, padding, peak_memory(self.device))


def take_step(trainer: Trainer, batches: Sequence[Batch], whole: StepCounts | None = None) -> StartedStep:
    """Starts one optimiser step on `batches`: it may not be done yet on return. They are this process's share of a step
    of `whole`, or all of it."""
    began = time.monotonic()
    trainer.loaded.model.train()
    counts = whole or StepCounts.of_batches(batches)
    rate, number = float(trainer.lr_scheduler.get_last_lr()[0]), trainer.lr_scheduler.last_epoch + 1
    if trainer.distributed.has_others:
        torch.manual_seed(seed_of(trainer.config.seed, number, trainer.distributed.rank))
    if trainer.pipeline is not None:
        loss = _gradients_of_stage(trainer, trainer.pipeline, batches, counts.targets, number)
    elif trainer.replay is None:
        loss = _gradients_as_written(trainer, _seeded(trainer, batches, number), counts.targets)
    else:
        loss = _gradients_replayed(trainer, _seeded(trainer, batches, number), counts.targets)
    sums: StepSums | None = None
    if trainer.distributed.has_others:
        share = (trainer.parameters, loss, batches, trainer.stop)
        pipeline = trainer.pipeline
        sums = sum_step(trainer.distributed, *share) if pipeline is None else sum_stages(pipeline, *share)
        loss = sums.loss
    with trainer.distributed.no_second_try():
        grad_norm = _clip(trainer, sums.grad_norm if sums is not None else None)
        _update(trainer, loss, grad_norm)
        padding = 0.0 if sums is not None else _padding(batches)
        host = HostMetrics(number, began, rate, counts.tokens, padding)
        return StartedStep(host, loss, grad_norm, trainer.device, sums, trainer.stop)


def _padding(batches: Sequence[Batch]) -> float:
    positions = sum(batch.tokens_BT.numel() for batch in batches)
    return round(sum(b.padding_share * b.tokens_BT.numel() for b in batches) / positions, 4)


def _gradients_as_written(trainer: Trainer, batches: Sequence[Batch], num_targets: int) -> torch.Tensor:
    device = trainer.device
    # dtypes are named: another thread that loads a model sets the process's default to bfloat16 meanwhile
    loss = torch.zeros((), dtype=torch.float32, device=device)
    scale = _scale(trainer, num_targets)
    for batch in (batch.to(device) for batch in batches):
        with rows_drawn(batch), _layers_through(trainer, batch):
            part = token_losses(trainer.loaded, batch, trainer.options).sum() / num_targets
            # torch's own: a launcher's variables would have Accelerate divide it again
            (part * scale).backward()  # type: ignore[no-untyped-call]
        loss += part.detach()
    _unscale(trainer, scale)
    return loss


def _scale(trainer: Trainer, num_targets: int) -> int:
    """In float16 the gradient of a mean would fall below the smallest number; that of the sum does not, and needs no
    scale that is found by trial."""
    return num_targets if trainer.loaded.base.compute_dtype == torch.float16 else 1


def _unscale(trainer: Trainer, scale: int) -> None:
    gradients = [p.grad for p in trainer.parameters if p.grad is not None]
    if scale != 1 and gradients:  # a process without a row in this step has none
        torch._foreach_div_(gradients, scale)


def _gradients_of_stage(
    trainer: Trainer, pipeline: Pipeline, batches: Sequence[Batch], num_targets: int, number: int
) -> torch.Tensor:
    scale = _scale(trainer, num_targets)
    loss = pipeline.gradients(trainer.loaded, _seeded(trainer, batches, number), trainer.options, num_targets, scale)
    _unscale(trainer, scale)
    return loss


def _gradients_replayed(trainer: Trainer, batches: Sequence[Batch], num_targets: int) -> torch.Tensor:
    assert trainer.replay is not None
    loss = torch.zeros((), dtype=torch.float32, device=trainer.device)
    for batch in batches:
        loss += trainer.replay(recorded_inputs(batch, num_targets))
    return loss


def recorded_inputs(batch: Batch, num_targets: int) -> dict[str, torch.Tensor]:
    """What `gradients` reads of a batch of a step with so many targets."""
    share_1 = torch.full((1,), 1 / num_targets, dtype=torch.float32, device=batch.tokens_BT.device)
    return {**_tensors(batch), "share_1": share_1}


def gradients(trainer: Trainer, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """What `replay` records: the loss of a batch times `share_1`; its gradients are added to those that the parameters
    hold."""
    tensors = {name: tensor for name, tensor in inputs.items() if name != "share_1"}
    batch = Batch(**tensors, num_tokens=0, num_targets=0, one_a_row=False)
    with _layers_through(trainer, batch):
        losses_N = token_losses(trainer.loaded, batch, trainer.options)
        part = losses_N.sum() * inputs["share_1"][0]
        parameters = trainer.parameters
        found = torch.autograd.grad(part, parameters)
    torch._foreach_add_([p.grad for p in parameters if p.grad is not None], list(found))
    return part.detach()


def _layers_through(trainer: Trainer, batch: Batch) -> contextlib.AbstractContextManager[None]:
    """Around a batch's forward and backward pass, which may recompute activations, where another family's layers are
    fused."""
    layers = trainer.options.fused_layers
    return contextlib.nullcontext() if layers is None else layers.through(batch, training=True)


def _seeded(trainer: Trainer, batches: Sequence[Batch], number: int) -> list[Batch]:
    """The batches with the seed of their dropout: a function of `--seed` and the step's number, so that a resumed run drops
    the same, and so do all processes."""
    seed_1 = torch.tensor([seed_of(trainer.config.seed, number, 0) % 2**62])  # a linear's stream is added to it
    return [replace(batch, seed_1=seed_1) for batch in batches]


def _tensors(batch: Batch) -> dict[str, torch.Tensor]:
    return {f.name: getattr(batch, f.name) for f in fields(batch) if isinstance(getattr(batch, f.name), torch.Tensor)}


def _clip(trainer: Trainer, norm: torch.Tensor | None) -> torch.Tensor:
    """The gradient's norm, after which it is at most `--max-grad-norm`. `norm` is that of all stages of a pipeline; None:
    this process has the whole gradient."""
    limit = trainer.config.max_grad_norm if trainer.config.max_grad_norm > 0 else math.inf
    if norm is None:
        return torch.nn.utils.clip_grad_norm_(trainer.parameters, limit)
    torch.nn.utils.clip_grads_with_norm_(trainer.parameters, limit, norm)
    return norm


def _update(trainer: Trainer, loss: torch.Tensor, grad_norm: torch.Tensor) -> None:
    """Moves the adapter, unless loss or gradient are no numbers: then nothing is moved, and `StartedStep.result` says so."""
    kept = trainer.replay is not None  # the recorded graph adds to gradients that stay where they are
    finite = torch.isfinite(loss) & torch.isfinite(grad_norm)
    inner: Any = getattr(trainer.optimizer, "optimizer", trainer.optimizer)  # out of Accelerate's wrapping
    if inner.defaults.get("fused"):
        inner.found_inf = (~finite).float()  # torch's fused AdamW leaves everything as it is where this is 1
        inner.grad_scale = None
    elif not bool(finite):
        trainer.optimizer.zero_grad(set_to_none=not kept)
        return
    trainer.optimizer.step()
    trainer.lr_scheduler.step()
    trainer.optimizer.zero_grad(set_to_none=not kept)
