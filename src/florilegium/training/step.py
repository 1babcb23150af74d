"""One optimiser step, and what it reports once the device has done it.

A step is `--batch-rows` quotes however they are packed. Its loss is the sum over all learned tokens of the step divided
once by their number, so 16 quotes in one batch and in sixteen give the same gradient. On CUDA the host asks nothing of
the device in a step: gradients are replayed from a recorded graph where the trunk runs (`cuda_graph.py`), AdamW skips
the step by itself where loss or gradient are no numbers, and the figures come back while the next step runs."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from florilegium.config import TrainConfig
from florilegium.model import ForwardOptions, LoadedModel, adapter_state, set_adapter_state, token_losses
from florilegium.model.fast_paths import GraphRunner
from florilegium.tokens import Batch, PackPlan
from florilegium.training.checkpoint import Progress, Snapshot, random_states, set_random_states
from florilegium.training.guards import check_step
from florilegium.training.memory import peak_memory
from florilegium.training.optimizer import restore_schedule


@dataclass
class Trainer:
    """What a step needs. `optimizer` and `schedule` are torch's, `accelerator` Accelerate's; `replay` is a
    `cuda_graph.py` CudaGraphRunner of `gradients`, or None where the step is run as it is written."""

    loaded: LoadedModel
    config: TrainConfig
    options: ForwardOptions
    plan: PackPlan
    optimizer: Any
    schedule: Any
    accelerator: Any
    replay: GraphRunner | None = None

    def __post_init__(self) -> None:
        self.parameters = [p for p in self.loaded.model.parameters() if p.requires_grad]

    @property
    def device(self) -> torch.device:
        return self.loaded.base.device

    def snapshot(self, progress: Progress, best: dict[str, torch.Tensor]) -> Snapshot:
        return Snapshot(
            replace(progress),
            adapter_state(self.loaded.model),
            best,
            self.optimizer.state_dict(),
            self.schedule.state_dict(),
            random_states(self.device),
            {"batch_tokens": self.plan.batch_tokens, "row_tokens": self.plan.row_tokens},
        )

    def restore(self, snapshot: Snapshot) -> None:
        set_adapter_state(self.loaded.model, snapshot.adapter)
        restore_schedule(self.optimizer, self.schedule, snapshot.optimizer, snapshot.schedule)
        set_random_states(snapshot.random, self.device)
        held = {"batch_tokens": self.plan.batch_tokens, "row_tokens": self.plan.row_tokens, **snapshot.pack}
        self.plan = replace(self.plan, batch_tokens=held["batch_tokens"], row_tokens=held["row_tokens"])


class Step:
    """A step that was started. `figures` waits for it, and raises DivergedError if it was not taken."""

    def __init__(
        self,
        number: int,
        began: float,
        known: dict[str, Any],
        loss: torch.Tensor,
        grad_norm: torch.Tensor,
        device: torch.device,
    ) -> None:
        self.number = number  # from 1
        self.known, self.device, self.began = known, device, began
        both = torch.stack([loss, grad_norm.float()])
        self.done: Any = None
        self.measured = both
        if device.type == "cuda":
            self.measured = torch.empty(2, pin_memory=True)
            self.measured.copy_(both, non_blocking=True)
            self.done = torch.cuda.current_stream().record_event()

    def figures(self) -> dict[str, Any]:
        if self.done is not None:
            self.done.synchronize()
        loss, grad_norm = self.measured.tolist()
        check_step(self.number, loss, grad_norm)
        return {"loss": loss, "grad_norm": grad_norm, **self.known, "peak_memory_bytes": peak_memory(self.device)}


def take_step(trainer: Trainer, batches: Sequence[Batch]) -> Step:
    """Starts one optimiser step on `batches`: it may not be done yet on return."""
    began = time.monotonic()
    trainer.loaded.model.train()
    num_targets = sum(batch.num_targets for batch in batches)
    rate, number = trainer.schedule.get_last_lr()[0], trainer.schedule.last_epoch + 1
    if trainer.replay is None:
        loss = _gradients_as_written(trainer, batches, num_targets)
    else:
        loss = _gradients_replayed(trainer, batches, num_targets)
    grad_norm = _clip(trainer)
    _update(trainer, loss, grad_norm)
    tokens = sum(batch.num_tokens for batch in batches)
    positions = sum(batch.tokens_BT.numel() for batch in batches)
    padding = sum(b.padding_share * b.tokens_BT.numel() for b in batches) / positions
    known = {"learning_rate": rate, "tokens": tokens, "padding_share": round(padding, 4)}
    return Step(number, began, known, loss, grad_norm, trainer.device)


def _gradients_as_written(trainer: Trainer, batches: Sequence[Batch], num_targets: int) -> torch.Tensor:
    device = trainer.device
    loss = torch.zeros((), device=device)
    for batch in batches:
        losses_N = token_losses(trainer.loaded, _seeded(batch).to(device), trainer.options)
        part = losses_N.sum() / num_targets
        trainer.accelerator.backward(part)
        loss += part.detach()
    return loss


def _gradients_replayed(trainer: Trainer, batches: Sequence[Batch], num_targets: int) -> torch.Tensor:
    assert trainer.replay is not None
    loss = torch.zeros((), device=trainer.device)
    share_1 = torch.full((1,), 1 / num_targets)
    for batch in batches:
        loss += trainer.replay({**_tensors(_seeded(batch)), "share_1": share_1})
    return loss


def gradients(trainer: Trainer, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """What `replay` records: the loss of a batch times `share_1`; its gradients are added to those that the parameters
    hold."""
    tensors = {name: tensor for name, tensor in inputs.items() if name != "share_1"}
    losses_N = token_losses(trainer.loaded, Batch(**tensors, num_tokens=0, num_targets=0), trainer.options)
    part = losses_N.sum() * inputs["share_1"][0]
    parameters = trainer.parameters
    found = torch.autograd.grad(part, parameters)
    torch._foreach_add_([p.grad for p in parameters if p.grad is not None], list(found))
    return part.detach()


def _seeded(batch: Batch) -> Batch:
    """The batch with chances of its own, drawn on the host: a checkpoint keeps its generator, so a resumed run drops
    the same."""
    return replace(batch, seed_1=torch.randint(2**31 - 1, (1,)))


def _tensors(batch: Batch) -> dict[str, torch.Tensor]:
    return {f.name: getattr(batch, f.name) for f in fields(batch) if isinstance(getattr(batch, f.name), torch.Tensor)}


def _clip(trainer: Trainer) -> torch.Tensor:
    """The gradient's norm, after which it is at most `--clip`."""
    limit = trainer.config.max_grad_norm if trainer.config.max_grad_norm > 0 else math.inf
    norm: torch.Tensor = trainer.accelerator.clip_grad_norm_(trainer.parameters, limit)
    return norm


def _update(trainer: Trainer, loss: torch.Tensor, grad_norm: torch.Tensor) -> None:
    """Moves the adapter, unless loss or gradient are no numbers: then nothing is moved, and `Step.figures` says so."""
    kept = trainer.replay is not None  # the recorded graph adds to gradients that stay where they are
    finite = torch.isfinite(loss) & torch.isfinite(grad_norm)
    inner = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    if inner.defaults.get("fused"):
        inner.found_inf = (~finite).float()  # torch's fused AdamW leaves everything as it is where this is 1
        inner.grad_scale = None
    elif not bool(finite):
        trainer.optimizer.zero_grad(set_to_none=not kept)
        return
    trainer.optimizer.step()
    trainer.schedule.step()
    trainer.optimizer.zero_grad(set_to_none=not kept)
