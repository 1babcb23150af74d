"""What a launcher sets in the environment, and what else goes on in the process: neither may matter to a run.

`accelerate launch` leaves its settings in variables, which Accelerate reads wherever it is made. It carries the trackers
here; the training step is torch's alone, and does not see it."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

from florilegium.runs.recorder import ProgressView

OF_LAUNCHERS = ("ACCELERATE_", "FSDP_", "DEEPSPEED_", "MEGATRON_LM_", "PARALLELISM_CONFIG_", "FORK_LAUNCHED")
_training = threading.RLock()  # reentrant: `resume` may go on as `train`


@contextlib.contextmanager
def one_training_at_a_time(view: ProgressView) -> Iterator[None]:
    """Dropout and the adapter's start draw from torch's one generator of the process: of two trainings at once each
    would draw what the other's seed was for. The second thread waits for the first."""
    if not _training.acquire(blocking=False):
        view.say("waiting  for another training run in this process to finish")
        _training.acquire()
    try:
        yield
    finally:
        _training.release()


@contextlib.contextmanager
def without_launcher() -> Iterator[None]:
    """Inside, as if no launcher had started this process."""
    hidden = {name: value for name, value in os.environ.items() if name.startswith(OF_LAUNCHERS)}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)
