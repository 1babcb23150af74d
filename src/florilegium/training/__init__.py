"""Training: the step, the loop around it, checkpoints, and what happens when somebody wants it to stop."""

from florilegium.signals import StopRequest, interrupted, watch
from florilegium.training.checkpoint import (
    Progress,
    Snapshot,
    check_room,
    clear_way,
    load_checkpoint,
    newest_whole,
    save_checkpoint,
    settings_of,
)
from florilegium.training.loop import (
    LOOK_ROWS,
    Observer,
    Schedule,
    choose_epochs,
    held_out_loss,
    make_schedule_numbers,
    order_of,
    run_steps,
)
from florilegium.training.memory import peak_memory
from florilegium.training.optimizer import check_optimizer, choose_learning_rate, make_optimizer, make_schedule
from florilegium.training.step import Step, Trainer, gradients, take_step

__all__ = [
    "LOOK_ROWS",
    "Observer",
    "Progress",
    "Schedule",
    "Snapshot",
    "Step",
    "StopRequest",
    "Trainer",
    "check_optimizer",
    "check_room",
    "choose_epochs",
    "choose_learning_rate",
    "clear_way",
    "gradients",
    "held_out_loss",
    "interrupted",
    "load_checkpoint",
    "make_optimizer",
    "make_schedule",
    "make_schedule_numbers",
    "newest_whole",
    "order_of",
    "peak_memory",
    "run_steps",
    "save_checkpoint",
    "settings_of",
    "take_step",
    "watch",
]
