"""`--gpus N`: torchrun, started here with the same command line, and the exit code that the processes end with.

    florilegium train quotes.jsonl --gpus 2   =   torchrun --standalone --nproc-per-node 2 -m florilegium train ...

torchrun sets RANK, WORLD_SIZE and where to meet, hands a signal on to all, and ends all when one ends badly: SIGTERM,
and SIGKILL 30 seconds later. What went wrong is told by the process that it happened to."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from florilegium.errors import FlorilegiumError, UsageError, counted

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

CONSEQUENCES = (5, -signal.SIGTERM, 128 + signal.SIGTERM)  # how a process ends because another one is gone


class ProcessesEnded(FlorilegiumError):
    """The processes are done, and have said why."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"the processes ended with exit code {exit_code}")
        self.exit_code, self.is_told = exit_code, True


def check_gpus(gpus: int, device: str) -> None:
    """Raises UsageError for more processes than this machine has GPUs; a CPU takes any number, for a trial."""
    if gpus < 1:
        raise UsageError(f"--gpus is {gpus}", "It takes the number of GPUs to train on, 1 or more")
    if device == "cpu":
        return
    import torch

    here = torch.cuda.device_count()
    if here == 0:
        raise UsageError(f"--gpus {gpus}: no CUDA GPU found", "Add --device cpu to try it on the processor")
    if here < gpus:
        raise UsageError(
            f"--gpus {gpus}: {counted(here, 'GPU')} here", f"Use --gpus {here}, or torchrun on several machines"
        )


def launch(gpus: int, arguments: Sequence[str]) -> None:
    """Runs `florilegium ARGUMENTS` in `gpus` processes. Raises ProcessesEnded when they end otherwise than well."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // gpus)))
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # the processes speak for themselves
    try:
        run(
            parse_args(  # type: ignore[no-untyped-call]
                ["--standalone", f"--nproc-per-node={gpus}", "-m", "florilegium", *arguments]
            )
        )
    except SignalException as error:
        raise ProcessesEnded(128 + error.sigval) from error
    except ChildFailedError as error:
        raise ProcessesEnded(exit_code_of(error.failures.values())) from error


def exit_code_of(failures: Iterable[ProcessFailure]) -> int:
    """The exit code of the process that failed first: one that others do not end with because it did, where there is
    one. 128 + the signal's number for one that was killed."""
    ordered = sorted(failures, key=lambda failure: failure.timestamp)
    own = [failure for failure in ordered if failure.exitcode not in CONSEQUENCES] or ordered
    return own[0].exitcode if own[0].exitcode >= 0 else 128 - own[0].exitcode
