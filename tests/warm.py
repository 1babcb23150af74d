"""A warm process that forks: each command runs in a real process of its own, and torch is imported once and not four
hundred times.

    warm = Warm()
    child = warm.start(["train", "quotes.jsonl"], cwd=folder, before=("kills", {"at": 17}))
    code = child.wait()                      # the exit code, or minus the signal that ended it, as subprocess has it

The server imports everything and computes nothing (a process that has computed with threads cannot be forked); `before`
names a function of `tests/torture/faults.py`, or of the files that it finds, that is called in the child before the
command, to put a fault in its way.

    done = run("train", "quotes.jsonl", cwd=folder)    # as subprocess.run(..., text=True) answers

Only the interpreter's own start and end are not those of a command that a person types: what hangs on them (the first
line before PyTorch is imported, a pipe that nobody reads) is tested with a new interpreter.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


@dataclass
class Child:
    """A running command. `out` and `err` are what it printed."""

    warm: Warm
    pid: int
    folder: Path
    code: int | None = None

    @property
    def out(self) -> str:
        return (self.folder / "out").read_text(errors="replace")

    @property
    def err(self) -> str:
        return (self.folder / "err").read_text(errors="replace")

    @property
    def last_line(self) -> str:
        return (self.err.strip().splitlines() or [""])[-1]

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def poll(self) -> int | None:
        if self.code is None:
            self.code = self.warm.ask({"poll": self.pid})["code"]
        return self.code

    def wait(self, seconds: float = 120) -> int:
        """The exit code. A command that takes longer than `seconds` is killed, and that is an AssertionError."""
        deadline = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > deadline:
                self.send(signal.SIGKILL)
                raise AssertionError(f"still running after {seconds} s: {self.err[-2000:]}")
            time.sleep(0.003)
        assert self.code is not None
        return self.code

    def left_behind(self) -> list[int]:
        """Processes of the child's session that are still there."""
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[3]) == self.pid and fields[0] != "Z":
                found.append(int(path.parent.name))
        return found


class Warm:
    """The server, from outside."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="torture-")
        mine, theirs = socket.socketpair()
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        command = [sys.executable, "-m", "tests.warm", str(theirs.fileno())]
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, pass_fds=[theirs.fileno()])
        theirs.close()
        self.stream = mine.makefile("rw")
        self.count = 0
        assert json.loads(self.stream.readline())["ready"]

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        self.stream.write(json.dumps(request) + "\n")
        self.stream.flush()
        return dict(json.loads(self.stream.readline()))

    def start(
        self,
        arguments: Sequence[str | Path],
        *,
        cwd: Path,
        before: tuple[str, dict[str, Any]] | None = None,
        env: dict[str, str] | None = None,
        limits: dict[str, int] | None = None,
        stdin: str = "",
    ) -> Child:
        self.count += 1
        folder = Path(self.folder.name) / str(self.count)
        folder.mkdir()
        for name, text in (("in", stdin), ("out", ""), ("err", "")):  # here, so that they can be read at once
            (folder / name).write_text(text)
        request = {
            "arguments": [str(a) for a in arguments], "cwd": str(cwd), "folder": str(folder), "before": before, "env": env or {},
            "limits": limits or {},
        }  # fmt: skip
        return Child(self, self.ask(request)["pid"], folder)

    def run(self, arguments: Sequence[str | Path], *, cwd: Path, seconds: float = 120, **more: Any) -> Child:
        child = self.start(arguments, cwd=cwd, **more)
        child.wait(seconds)
        return child

    def stop(self) -> None:
        self.stream.close()
        self.process.kill()
        self.process.wait()
        self.folder.cleanup()


@functools.cache
def shared() -> Warm:
    """The one server of this test process."""
    server = Warm()
    atexit.register(server.stop)
    return server


def run(*arguments: str | Path, cwd: Path, timeout: float = 600, **more: Any) -> subprocess.CompletedProcess[str]:
    """The command, run to its end: its exit code and what it printed."""
    child = shared().run(arguments, cwd=cwd, seconds=timeout, **more)
    assert child.code is not None
    return subprocess.CompletedProcess(arguments, child.code, child.out, child.err)


def serve(connection: socket.socket) -> None:
    """The server's loop: fork on request, tell who has ended."""
    import gc

    import_everything()
    gc.collect()
    gc.freeze()
    ended: dict[int, int] = {}
    stream = connection.makefile("rw")
    stream.write(json.dumps({"ready": True}) + "\n")
    stream.flush()
    for line in stream:
        request = json.loads(line)
        if "poll" in request:
            pid = request["poll"]
            if pid not in ended:
                found, status = os.waitpid(pid, os.WNOHANG)
                if found:
                    ended[pid] = os.waitstatus_to_exitcode(status)
            answer: dict[str, Any] = {"code": ended.get(pid)}
        else:
            pid = os.fork()
            if pid == 0:
                connection.close()
                be_child(request)
            answer = {"pid": pid}
        stream.write(json.dumps(answer) + "\n")
        stream.flush()


def import_everything() -> None:
    """What every child would import, once, for all of them: nothing is used here."""
    import accelerate  # noqa: F401
    import bitsandbytes  # noqa: F401
    import matplotlib.backends.backend_agg  # noqa: F401
    import matplotlib.figure  # noqa: F401
    import matplotlib.ticker  # noqa: F401
    import peft  # noqa: F401
    import torch
    import transformers.models.bloom.modeling_bloom  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, get_scheduler  # noqa: F401

    import florilegium.cli.commands  # noqa: F401
    import florilegium.cli.progress  # noqa: F401
    import florilegium.cli.tables  # noqa: F401
    import florilegium.generation  # noqa: F401
    import florilegium.report  # noqa: F401
    import florilegium.runs.evaluate  # noqa: F401
    import florilegium.runs.resume  # noqa: F401

    with contextlib.suppress(ImportError):  # the `serve` extra
        import uvicorn  # noqa: F401

        import florilegium.serve.app  # noqa: F401
    torch.set_num_threads(1)


def be_child(request: dict[str, Any]) -> None:
    """Runs one command as a process of its own session, and never returns."""
    code = 1
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # nohup, round the tests, has them ignored
            signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)
        os.chdir(request["cwd"])
        os.environ.update(request["env"])
        for fd, name, flags in ((0, "in", os.O_RDONLY), (1, "out", os.O_WRONLY), (2, "err", os.O_WRONLY)):
            handle = os.open(os.path.join(request["folder"], name), flags | (os.O_CREAT if fd else 0), 0o600)
            os.dup2(handle, fd)
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), write_through=True)
        sys.stderr = io.TextIOWrapper(io.FileIO(os.dup(2), "w"), write_through=True)  # as `own_stderr` has it
        sys.stdin = io.TextIOWrapper(io.FileIO(0, "r", closefd=False))
        import resource

        for name, value in request["limits"].items():
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
        if request["before"]:
            from tests.torture.faults import fault

            name, options = request["before"]
            fault(name)(**options)
        from florilegium.cli.main import main

        code = main(request["arguments"])
        sys.stdout.flush()
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
