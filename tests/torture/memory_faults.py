"""Memory that runs out, at a step, at a save or altogether, and what a command held."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def let_memory_run_out(step: int, tokens: int, kind: str) -> None:
    """From step number `step` on, whatever holds more than `tokens` positions at once finds no memory."""
    import torch

    import florilegium.training.loop as loop
    import florilegium.training.step as taking

    errors = {
        "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        "cpu": RuntimeError(
            "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
        ),
        "python": MemoryError(),
    }
    losses, take, now = loop.token_losses, loop.start_step, [0]

    def start_step(*arguments: Any) -> Any:
        now[0] += 1
        return take(*arguments)

    def token_losses(loaded: Any, batch: Any, options: Any) -> Any:
        if now[0] >= step and batch.tokens_BT.numel() > tokens:
            found = losses(loaded, batch, options)
            if found.requires_grad:  # dropout has drawn, and gradients are there, by the time that memory runs out
                found.sum().backward()
            raise errors[kind]
        return losses(loaded, batch, options)

    loop.start_step = start_step
    loop.token_losses = taking.token_losses = token_losses  # type: ignore[assignment]


def limit_memory(megabytes: int) -> None:
    """Once the first look is over the process may take `megabytes` more than it has, and no more."""
    import resource

    import florilegium.runs.recorder as recorder

    looked = recorder.Recorder.evaluated

    def limited(self: Any, metrics: Any, is_best: bool) -> None:
        looked(self, metrics, is_best)
        if metrics.step == 0:
            taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (taken + megabytes * 2**20, resource.RLIM_INFINITY))

    recorder.Recorder.evaluated = limited  # type: ignore[method-assign]


def no_memory_to_save(number: int) -> None:
    """Memory runs out in the middle of the `number`th save."""
    import florilegium.training.checkpoint as checkpoint

    pieces, calls = checkpoint.tensor_pieces, [0]

    def interrupted(tensors: Any, *more: Any) -> Any:
        calls[0] += 1
        for place, piece in enumerate(pieces(tensors, *more)):
            if place == 2 and calls[0] == 3 * number - 1:  # three files of tensors a save: in the optimiser's
                raise MemoryError
            yield piece

    checkpoint.tensor_pieces = interrupted


def watch_memory(log: str) -> None:
    """A line each 20 steps: step, resident bytes, open file descriptors, threads."""
    import gc
    import resource

    import florilegium.runs.recorder as recorder

    done = recorder.Recorder.step_done

    def step_done(self: Any, metrics: Any) -> None:
        done(self, metrics)
        if metrics.step % 20 == 0:
            gc.collect()
            resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
            row = {"step": metrics.step, "bytes": resident, "handles": len(os.listdir("/proc/self/fd"))}
            row["threads"] = len(os.listdir("/proc/self/task"))
            with open(log, "a") as file:
                file.write(json.dumps(row) + "\n")

    recorder.Recorder.step_done = step_done  # type: ignore[method-assign]


def report_peak(log: str) -> None:
    """Writes how many bytes more than at its start the process held at most, when the command ends."""
    import resource

    import florilegium.cli.main as cli

    main, start = cli.main, int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    def reporting(*arguments: Any) -> Any:
        try:
            return main(*arguments)
        finally:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            Path(log).write_text(str(max(0, peak - start)))

    cli.main = reporting


def more_memory(megabytes: int) -> None:
    """The process may take `megabytes` more than it has, and no more."""
    import resource

    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + megabytes * 2**20, resource.RLIM_INFINITY))
