"""Faults in the way of a save: its file operations counted, slowed down, made to fail, or its process dead at one of them.

Every byte of ours goes through a handful of calls of `os` (see `atomic_files.py`), so replacing those in the process is
enough."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
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
