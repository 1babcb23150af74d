"""What the processes of a run are asked before it is prepared: whether there are enough of them for a pipeline, and how
much room their cards have."""

from __future__ import annotations

import torch

from florilegium.config import TrainConfig
from florilegium.errors import UsageError
from florilegium.model.card_memory import free_memory, usable_memory
from florilegium.model.memory_plan import GIB
from florilegium.training import Distributed


def refuse_alone(config: TrainConfig, distributed: Distributed) -> None:
    """Raises UsageError for a pipeline of one process. (A run that was one may be resumed by one.)"""
    if config.parallel == "pipeline" and not distributed.has_others:
        raise UsageError(
            "--parallel pipeline spreads the base over several processes, and this is one",
            "Add --gpus N, or start it with torchrun",
        )


def card_room(config: TrainConfig, distributed: Distributed) -> int:
    """The bytes that the GPU with the least to spare has for a process; 0 on the CPU, or in one process. All processes
    call it."""
    if not distributed.has_others or distributed.device.type != "cuda":
        return 0
    limit = config.gpu_memory_limit
    left = min(limit * GIB - torch.cuda.memory_allocated(), free_memory()) if limit else usable_memory()
    return distributed.smallest(max(1, int(left)))
