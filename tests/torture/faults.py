"""Faults to put in a command's way. Each function here is called in a child of `warm.py` before its command runs.

Here: numbers that are none, stages that take long or never end, packages and pickles. Those of files are in
`file_faults.py`, of memory in `memory_faults.py`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.torture import file_faults, memory_faults


def fault(name: str) -> Callable[..., None]:
    """The function `name` of this file or of the other two."""
    here = sys.modules[__name__]
    found: Callable[..., None] = next(getattr(m, name) for m in (here, file_faults, memory_faults) if hasattr(m, name))
    return found


def put_a_number_that_is_none(kind: str, step: int, value: str) -> None:
    """In step number `step` a weight, the loss, a gradient or the input holds `value` ("nan" or "inf")."""
    import florilegium.runs.recorder as recorder
    import florilegium.training.step as taking

    number, now = float(value), [1]
    model: list[Any] = []
    done, losses = recorder.Recorder.step_done, taking.token_losses

    def step_done(self: Any, metrics: Any) -> None:
        done(self, metrics)
        now[0] = metrics.step + 1
        if kind == "weight" and now[0] == step:
            _adapter_weight(self.texts.tuned.model).data.view(-1)[3] = number

    def token_losses(loaded: Any, batch: Any, options: Any) -> Any:
        tuned = loaded.model
        if not model:
            model.append(tuned)
            _put_hooks(tuned, kind, number, lambda: now[0] == step and tuned.training)
        plain = losses(loaded, batch, options)
        return plain * number if kind == "loss" and now[0] == step and tuned.training else plain

    recorder.Recorder.step_done = step_done  # type: ignore[method-assign]
    taking.token_losses = token_losses  # type: ignore[assignment]


def _adapter_weight(model: Any) -> Any:
    return next(p for p in model.parameters() if p.requires_grad)


def _put_hooks(model: Any, kind: str, number: float, now: Callable[[], bool]) -> None:
    if kind == "gradient":

        def poisoned(gradient: Any) -> Any:
            gradient = gradient.clone()
            gradient.view(-1)[0] = number if now() else gradient.view(-1)[0]
            return gradient

        _adapter_weight(model).register_hook(poisoned)
    if kind == "input":

        def embedded(module: Any, inputs: Any, hidden: Any) -> Any:
            hidden = hidden.clone()
            hidden.view(-1)[0] = number if now() else hidden.view(-1)[0]
            return hidden

        model.get_input_embeddings().register_forward_hook(embedded)


STAGES = ("data preparation", "step", "evaluation", "save")


def mark_stages(marks: str, seconds: float) -> None:
    """Byte 1 to 4 of the file `marks` counts how often the first to fourth of STAGES began; each lasts `seconds`
    longer."""
    import mmap

    import florilegium.runs.recorder as recorder
    import florilegium.runs.train as pipeline
    import florilegium.training.loop as loop

    with open(marks, "r+b") as file:
        shared = mmap.mmap(file.fileno(), 0)

    def marked(stage: int, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            shared[stage] = min(255, shared[stage] + 1)
            time.sleep(seconds / 2)
            done = function(*arguments, **named)
            time.sleep(seconds / 2)
            return done

        return call

    pipeline.prepare = marked(1, pipeline.prepare)
    loop.start_step = marked(2, loop.start_step)
    loop.held_out_loss = marked(3, loop.held_out_loss)
    recorder.save_checkpoint = marked(4, recorder.save_checkpoint)


def spoil_a_stage(step: int, how: str) -> None:
    """In step number `step` of a pipeline this stage's gradients hold a NaN, or it finds no memory ("nan", "memory")."""
    import florilegium.training.pipeline as pipeline

    run, backward, now = pipeline._Step.run, pipeline._Step.backward, [0]

    def counted_run(self: Any, batches: Any) -> None:
        now[0] += 1
        run(self, batches)

    def spoiled(self: Any, gradient: Any) -> Any:
        found = backward(self, gradient)
        if now[0] == step and how == "memory":
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")
        if now[0] == step:
            own = next(p for p in self.loaded.model.parameters() if p.requires_grad and not p.is_meta)
            own.grad.view(-1)[0] = float("nan")
        return found

    pipeline._Step.run = counted_run  # type: ignore[method-assign]
    pipeline._Step.backward = spoiled  # type: ignore[method-assign]


def wait_for_a_kernel(step: int, mark: str) -> None:
    """The sum of the gradients of step number `step` never ends, as NCCL's does not when another process was killed: in C,
    where no signal ends it, and nothing is thrown. The file `mark` is there once it has begun."""
    import ctypes

    from florilegium.training.distributed import Distributed

    sum_, now = Distributed.sum_, [0]

    def waiting(self: Any, tensor: Any) -> Any:
        now[0] += tensor.is_floating_point() and tensor.numel() > 1000
        if now[0] == step:
            Path(mark).touch()
        while now[0] == step:
            ctypes.CDLL(None).sleep(1000)
        return sum_(self, tensor)

    Distributed.sum_ = waiting  # type: ignore[method-assign]


def take_long_to_prepare(seconds: float, patience: float) -> None:
    """Reading rows and base takes so long; processes wait for one another's sums no longer than `patience` seconds."""
    from datetime import timedelta

    import florilegium.runs.train as pipeline
    import florilegium.training.distributed as distributed

    prepare = pipeline.prepare
    distributed.WAIT = timedelta(seconds=patience)

    def slow(*arguments: Any, **named: Any) -> Any:
        time.sleep(seconds)
        return prepare(*arguments, **named)

    pipeline.prepare = slow


def in_a_share(mark: str, how: str = "") -> None:
    """The file `mark` gets a line for each share of texts that this process writes: how many. In the first of them
    memory runs out ("memory"), or this process is asked to stop ("signal")."""
    import os
    import signal

    import florilegium.generation.generate as generate
    from florilegium.errors import ResourceError

    write, shares = generate.write, [0]

    def counted(loaded: Any, requests: Any) -> Any:
        shares[0] += 1
        with open(mark, "a") as file:
            file.write(f"{len(requests)}\n")
        if how == "memory" and shares[0] == 1:
            raise ResourceError("generation does not fit in memory", "Ask for fewer at once")
        if how == "signal" and shares[0] == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        yield from write(loaded, requests)

    generate.write = counted


def never_finish(what: str, number: int, mark: str) -> None:
    """The `number`th held-out loss ("evaluation") or drawing of samples ("samples") goes on for ever; the file `mark`
    is there once it has begun."""
    import florilegium.generation.tuned as tuned
    import florilegium.training.loop as loop

    left = [number]

    def endless(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                Path(mark).touch()
                while True:
                    time.sleep(0.01)
            return function(*arguments, **named)

        return call

    if what == "evaluation":
        loop.held_out_loss = endless(loop.held_out_loss)
    else:
        tuned.generate_texts = endless(tuned.generate_texts)


def install(name: str, folder: str) -> None:
    """The package `name` that lies in `folder` can be imported, and Accelerate knows it, which looked when it was
    imported itself."""
    import importlib

    import accelerate.tracking

    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    accelerate.tracking.get_available_trackers().append(accelerate.tracking.LoggerType(name))


def no_pickle(opened: str = "") -> None:
    """torch.load and pickle raise; with `opened` the command begins with such a file."""
    import pickle

    import torch

    import florilegium.cli.main as cli

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("a pickle was opened")

    torch.load = torch.serialization.load = never
    pickle.load = pickle.loads = never
    if opened:
        main = cli.main
        cli.main = lambda *arguments: torch.load(opened) or main(*arguments)
