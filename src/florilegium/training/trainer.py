"""What takes a step: the model with its adapter, optimizer and schedule, how rows are packed, and which part of it all is
this process's.

A snapshot of it is what one process has, however many there are (`pipeline_state.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from florilegium.config import TrainConfig
from florilegium.model import ForwardOptions, LoadedModel, adapter_state, set_adapter_state
from florilegium.model.kernel_protocols import GraphRunner
from florilegium.tokens import Batch, Example, PackPlan, pack
from florilegium.training.checkpoint import Progress, Snapshot
from florilegium.training.distributed import ALONE, Distributed
from florilegium.training.optimizer import parameter_groups, restore_optimizer
from florilegium.training.pipeline import Pipeline
from florilegium.training.pipeline_state import own_optimizer, whole_adapter, whole_optimizer
from florilegium.training.saved_state import random_states, set_random_states
from florilegium.training.step_sums import SharedStop

if TYPE_CHECKING:
    from torch.optim.lr_scheduler import LambdaLR
    from torch.optim.optimizer import StateDict


@dataclass
class Trainer:
    """What a step needs. `replay` is `gradients` recorded as a CUDA graph, or None where the step is run as it is
    written; `unrecorded` is why, where it was tried."""

    loaded: LoadedModel
    config: TrainConfig
    options: ForwardOptions
    plan: PackPlan
    optimizer: torch.optim.Optimizer
    lr_scheduler: LambdaLR
    replay: GraphRunner | None = None
    unrecorded: str = ""
    distributed: Distributed = ALONE
    stop: SharedStop | None = None  # of several processes
    pipeline: Pipeline | None = None  # where they hold the base together
    tile: int = 0  # tokens of which steps in the tile-aligned order hold a multiple; 0: chosen from the rows

    def __post_init__(self) -> None:
        self.parameters = [p for p in self.loaded.model.parameters() if p.requires_grad and not p.is_meta]
        if self.pipeline is not None:  # NCCL wants all processes to meet before two of them talk
            self.distributed.sum_(torch.zeros(1, dtype=torch.float32, device=self.device))

    @property
    def device(self) -> torch.device:
        return self.loaded.base.device

    def snapshot(self, progress: Progress, best: dict[str, torch.Tensor]) -> Snapshot:
        return Snapshot(
            replace(progress),
            self.adapter_state(),
            best,
            self._optimizer_state(),
            self.lr_scheduler.state_dict(),
            random_states(self.device),
            {"batch_tokens": self.plan.batch_tokens, "row_tokens": self.plan.row_tokens},
        )

    def restore(self, snapshot: Snapshot) -> None:
        set_adapter_state(self.loaded.model, snapshot.adapter)
        state = snapshot.optimizer
        if self.pipeline is not None:
            state = own_optimizer(state, parameter_groups(self.loaded.model, self.config))
        restore_optimizer(self.optimizer, self.lr_scheduler, state, snapshot.lr_scheduler)
        set_random_states(snapshot.random, self.device)
        held = {"batch_tokens": self.plan.batch_tokens, "row_tokens": self.plan.row_tokens, **snapshot.pack}
        self.plan = replace(self.plan, batch_tokens=held["batch_tokens"], row_tokens=held["row_tokens"])

    def adapter_state(self) -> dict[str, torch.Tensor]:
        """The whole adapter's, on the CPU."""
        if self.pipeline is not None:
            return whole_adapter(self.pipeline, self.loaded.model)
        return adapter_state(self.loaded.model)

    def _optimizer_state(self) -> StateDict:
        if self.pipeline is not None:
            groups = parameter_groups(self.loaded.model, self.config)
            return whole_optimizer(self.pipeline, self.optimizer, groups)
        return self.optimizer.state_dict()

    def align(self) -> None:
        """Before the first step: every process's adapter is rank 0's. Stages and chains drew theirs with one seed."""
        if self.pipeline is None:
            self.distributed.same_(self.parameters)

    def share_of(self, examples: Sequence[Example]) -> Sequence[Example]:
        """The rows of a step that pass through this process: in a pipeline all those of its chain."""
        return self.distributed.share_of(examples) if self.pipeline is None else self.pipeline.share_of(examples)

    def batches(self, examples: Sequence[Example]) -> list[Batch]:
        return pack(examples, self.plan) if self.pipeline is None else self.pipeline.micro_batches(examples, self.plan)
