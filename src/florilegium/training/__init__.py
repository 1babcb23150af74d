"""Training: the step, the loop around it, checkpoints, and what happens when somebody wants it to stop."""

from florilegium.signals import StopRequest, interrupted, watch
from florilegium.training.checkpoint import (
    Progress,
    Snapshot,
    check_room,
    load_checkpoint,
    move_newer_aside,
    newest_valid,
    save_checkpoint,
    settings_of,
)
from florilegium.training.distributed import ALONE, Distributed, joined
from florilegium.training.length import RunLength, choose_epochs, plan_length
from florilegium.training.loop import (
    EVALUATION_ROWS,
    batch_sampler,
    held_out_loss,
    run_steps,
)
from florilegium.training.memory import peak_memory
from florilegium.training.metrics import EvalMetrics, StepMetrics, StepResult
from florilegium.training.observer import Observer
from florilegium.training.optimizer import check_optimizer, choose_learning_rate, make_lr_scheduler, make_optimizer
from florilegium.training.peers import PeerLost
from florilegium.training.step import StartedStep, gradients, take_step
from florilegium.training.step_sums import SharedStop
from florilegium.training.trainer import Trainer

__all__ = [
    "ALONE",
    "EVALUATION_ROWS",
    "Distributed",
    "EvalMetrics",
    "Observer",
    "PeerLost",
    "Progress",
    "RunLength",
    "SharedStop",
    "Snapshot",
    "StartedStep",
    "StepMetrics",
    "StepResult",
    "StopRequest",
    "Trainer",
    "batch_sampler",
    "check_optimizer",
    "check_room",
    "choose_epochs",
    "choose_learning_rate",
    "gradients",
    "held_out_loss",
    "interrupted",
    "joined",
    "load_checkpoint",
    "make_lr_scheduler",
    "make_optimizer",
    "move_newer_aside",
    "newest_valid",
    "peak_memory",
    "plan_length",
    "run_steps",
    "save_checkpoint",
    "settings_of",
    "take_step",
    "watch",
]
