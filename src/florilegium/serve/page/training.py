"""The page's training: one run at a time, by `florilegium train` or `resume` in a process of its own.

What is told of it is what the run's folder says (metrics.jsonl, samples.jsonl), from its beginning: a page that was closed
and opened again misses nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from florilegium.report.run_reader import read_run
from florilegium.serve.api_errors import ApiError
from florilegium.serve.events import Events, JsonObject
from florilegium.serve.page.child import Child
from florilegium.storage.json_lines import whole_lines
from florilegium.storage.run_directory import RUNS, RunDirectory

RUNNING, STOPPING, FINISHED, STOPPED, FAILED = "running", "stopping", "finished", "stopped", "failed"
POLL_SECONDS, QUIET_POLLS, SAVE_SECONDS = 0.4, 40, 60


@dataclass
class Training:
    """A run being trained, or the last one that was."""

    run: RunDirectory
    child: Child
    asked_to_stop: bool = False
    ended: asyncio.Task[int] = field(init=False)

    def __post_init__(self) -> None:
        self.ended = asyncio.ensure_future(self.child.wait())

    @property
    def status(self) -> str:
        if not self.ended.done():
            return STOPPING if self.asked_to_stop else RUNNING
        code = self.ended.result()
        return FINISHED if code == 0 else STOPPED if code in (130, 143) else FAILED

    def as_object(self) -> JsonObject:
        status, planned = self.status, self.run.read_manifest().get("planned_steps")
        verdict = read_run(self.run.path).verdict if status == FINISHED else None
        return {
            "type": "state", "run": self.run.path.name, "status": status, "planned_steps": planned,
            "failure": self.child.failure if status == FAILED else None,
            "can_resume": status in (STOPPED, FAILED) and self.run.checkpoints.is_dir(),
            "verdict": {"works": verdict.works, "sentence": verdict.sentence} if verdict else None,
            "said": list(self.child.said)[-40:],
        }  # fmt: skip


class Trainings:
    """At most one at a time."""

    def __init__(self) -> None:
        self.current: Training | None = None
        self.starting = asyncio.Lock()
        self.ending = False

    async def start(self, run: RunDirectory, *command: str) -> Training:
        """Raises ApiError (409) while another one runs."""
        async with self.starting:
            if self.ending or (self.current and not self.current.ended.done()):
                fix = "Stop it, or wait for its end"
                raise ApiError(409, "a training run is already active", fix, code="training_under_way")
            self.current = Training(run, await Child.start(*command))
            return self.current

    def stop(self) -> None:
        if self.current and not self.current.ended.done():
            self.current.asked_to_stop = True
            self.current.child.stop()

    async def close(self) -> None:
        """With the server: what trains saves and ends."""
        self.ending = True
        self.stop()
        if self.current:
            try:
                await asyncio.wait_for(asyncio.shield(self.current.ended), SAVE_SECONDS)
            except TimeoutError:
                self.current.child.kill()

    async def events(self, is_ending: Callable[[], bool]) -> Events:
        """The state, all metrics and samples so far, and what comes, until the training ends. Lines of a run that is
        resumed replace those that it told before."""
        training = self.current
        if training is None:
            yield {"type": "state", "run": None, "status": "none"}
            return
        tails = [Tail("metrics", training.run.metrics), Tail("samples", training.run.samples)]
        told, quiet = None, 0
        while not is_ending():
            over = training.ended.done()  # asked before the files: what was written last is told too
            news = [event for tail in tails for event in tail.news()]
            state = training.as_object()
            for event in [*([state] if state != told else []), *news]:
                yield event
            told, quiet = state, 0 if news or state != told else quiet + 1
            if over:
                return
            if quiet >= QUIET_POLLS:
                quiet = 0
                yield None
            await asyncio.sleep(POLL_SECONDS)


class Tail:
    """A file's lines as they are added."""

    def __init__(self, what: str, path: Path) -> None:
        self.what, self.path, self.size = what, path, -1
        self.count = 0

    def news(self) -> Iterator[JsonObject]:
        """The rows that are new, as one event; `from` 0 when they are all there are."""
        size = self.path.stat().st_size if self.path.is_file() else 0
        if size == self.size:
            return
        rows: list[dict[str, Any]] = [row for _, row in whole_lines(self.path)]
        start = self.count if size > self.size and len(rows) >= self.count else 0
        self.size, self.count = size, len(rows)
        yield {"type": self.what, "from": start, "rows": rows[start:]}


def free_name(wanted: str) -> RunDirectory:
    """A folder in runs/ that is not there yet."""
    for number in range(1, 10_000):
        path = RUNS / (wanted if number == 1 else f"{wanted}-{number}")
        if not path.exists() and not path.is_symlink():
            return RunDirectory(path)
    raise ApiError(409, "there are too many runs of that name", "Choose another name", param="name")
