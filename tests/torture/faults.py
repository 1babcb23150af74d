"""Faults to put in a command's way. Each function here is called in a child of `warm.py` before its command runs.

Every byte of ours goes through a handful of calls of `os` (see `atomic_files.py`), so replacing those in the process is
enough to count its file operations, slow them down, fail one of them, or die at one of them."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

OPERATIONS = ("open", "write", "fsync", "rename", "replace", "mkdir", "unlink", "rmdir", "ftruncate", "pwrite")
Hook = Callable[[str, tuple[Any, ...], Callable[[], Any]], Any]
true = {name: getattr(os, name) for name in OPERATIONS}


def intercept(hook: Hook) -> None:
    """From now on each file operation goes through `hook(name, arguments, go)`, where `go()` does it. Opening to read
    is none."""

    def wrapped(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            def go() -> Any:
                return true[name](*arguments, **named)

            if name == "open" and not arguments[1] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return go()
            return hook(name, arguments, go)

        return call

    for name in OPERATIONS:
        setattr(os, name, wrapped(name))


def release() -> None:
    for name, function in true.items():
        setattr(os, name, function)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def around_save(replacement: Callable[[Callable[..., Any], tuple[Any, ...]], Any], what: str = "checkpoint") -> None:
    """Each saving of a checkpoint (or of the adapter) becomes `replacement(save, arguments)`."""
    import florilegium.runs.finish as finish
    import florilegium.runs.recorder as recorder

    home: Any = recorder if what == "checkpoint" else finish
    save = getattr(home, f"save_{what}")
    setattr(home, f"save_{what}", lambda *arguments: replacement(save, arguments))


def die_at_every_operation(number: int, copies: str, what: str = "checkpoint") -> None:
    """At the `number`th save the run's folder is put back and the save begun again and again, each time in a process of
    its own that dies at its Nth operation (a write: half done) for N = 1 to all. What each death leaves is copied to
    `copies`/N; then the run dies."""
    calls = [0]

    def save_to_death(save: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        calls[0] += 1
        if calls[0] < number:
            return save(*arguments)
        run = next(a for a in arguments if isinstance(a, Path)).parent
        aside = Path(copies) / "before"
        shutil.copytree(run, aside)
        at, finished = 0, False
        while not finished:
            at += 1
            pid = os.fork()
            if pid == 0:
                os._exit(_save_and_die(save, arguments, at, run / "checkpoints"))
            finished = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            shutil.copytree(run, Path(copies) / str(at))
            shutil.rmtree(run)
            shutil.copytree(aside, run)
        (Path(copies) / "operations").write_text(str(at - 1))
        die()

    around_save(save_to_death, what)


def _save_and_die(save: Callable[..., Any], arguments: tuple[Any, ...], at: int, checkpoints: Path) -> int:
    from florilegium.training import newest_valid

    left = [at]

    def hook(name: str, given: tuple[Any, ...], go: Callable[[], Any]) -> Any:
        left[0] -= 1
        if left[0] == 0:
            if name == "write":
                true["write"](given[0], given[1][: len(given[1]) // 2])
            die()
        done = go()
        release()
        if newest_valid(checkpoints)[0] is None:
            (checkpoints / "none-is-good").write_text(name)
        intercept(hook)
        return done

    intercept(hook)
    save(*arguments)
    return 0


def record_save(number: int, log: str) -> None:
    """Writes the file operations of the `number`th save, their data with them, to `log`, and the checkpoints before it
    beside it."""
    calls, operations = [0], list[list[str]]()

    def hook(name: str, given: tuple[Any, ...], go: Callable[[], Any]) -> Any:
        done = go()
        if name == "open":
            operations.append(["create", str(given[0])])
        elif name == "write":
            operations.append(["write", _file_of(given[0]), bytes(given[1][:done]).hex()])
        elif name == "fsync":
            operations.append(["fsync", _file_of(given[0])])
        else:
            operations.append([name, *map(str, given)])
        return done

    def recorded(save: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        calls[0] += 1
        if calls[0] != number:
            return save(*arguments)
        shutil.copytree(arguments[0], log + ".before")
        intercept(hook)
        try:
            return save(*arguments)
        finally:
            release()
            shutil.copytree(arguments[0], log + ".after")
            Path(log).write_text(json.dumps(operations))

    around_save(recorded)


def _file_of(handle: int) -> str:
    return os.readlink(f"/proc/self/fd/{handle}")


def slow_saves(seconds: float, marks: str) -> None:
    """Each operation of a save takes `seconds` more; the first byte of the file `marks` is 1 while one goes on, and the
    next four hold the last step that was saved."""
    import mmap

    with open(marks, "r+b") as file:
        shared = mmap.mmap(file.fileno(), 0)

    def hook(name: str, given: tuple[Any, ...], go: Callable[[], Any]) -> Any:
        time.sleep(seconds)
        return go()

    def slowly(save: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        shared[0] = 1
        intercept(hook)
        try:
            done = save(*arguments)
            shared[1:5] = arguments[1].progress.step.to_bytes(4, "little")
            return done
        finally:
            release()
            shared[0] = 0

    around_save(slowly)


def fail_operation(at: int, error: int, kinds: list[str], seed: int = 0) -> None:
    """The `at`th operation of `kinds`, anywhere in the command, fails with the error number `error`; so do all after it
    that need room."""
    left = [at]

    def hook(name: str, given: tuple[Any, ...], go: Callable[[], Any]) -> Any:
        if name in kinds:
            left[0] -= 1
            if left[0] <= 0:
                if name == "write" and left[0] == 0:  # a disk fills in the middle of a write
                    true["write"](given[0], given[1][: random.Random(seed).randrange(len(given[1]) + 1)])
                raise OSError(error, os.strerror(error))
        return go()

    intercept(hook)


def no_look_at_the_room() -> None:
    """The disk is not asked beforehand: it fills while it is written to, as it does when somebody else fills it."""
    import florilegium.runs.train as pipeline
    import florilegium.storage.atomic_folders as commit

    pipeline.check_room = lambda *arguments: None  # type: ignore[assignment]
    commit.free_bytes = lambda path: 1 << 60  # type: ignore[assignment]


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
            _adapter_weight(self.tuned.model).data.view(-1)[3] = number

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


def more_memory(megabytes: int) -> None:
    """The process may take `megabytes` more than it has, and no more."""
    import resource

    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + megabytes * 2**20, resource.RLIM_INFINITY))
