"""A model in memory with its engine, and the jobs that it writes. All of it belongs to the worker's thread."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from florilegium.generation import Engine, Request, TokenEvent, make_engine
from florilegium.generation.engine import ready
from florilegium.model import LoadedModel
from florilegium.serve.api_errors import ApiError


def failed() -> ApiError:
    return ApiError(500, "the model failed while it wrote; see the server's log", code="engine_failed")


@dataclass(eq=False)
class Job:
    """A request to a model, and who hears of its tokens: of a TokenEvent each, or of the error that ended it."""

    loaded: LoadedModel
    request: Request
    deliver: Callable[[TokenEvent | ApiError], None]
    number: int = -1
    cancelled: bool = False
    done: bool = False


Event = tuple[Job, TokenEvent | ApiError]


class Hosted:
    """`retired`: it leaves when its jobs are done."""

    def __init__(self, loaded: LoadedModel, slots: int, capacity: int, *, retired: bool = False) -> None:
        self.loaded, self.slots, self.capacity, self.retired = loaded, slots, capacity, retired
        self.jobs: dict[int, Job] = {}
        self.held = contextlib.ExitStack()
        self.held.enter_context(ready(loaded))
        try:
            self.engine: Engine | None = make_engine(loaded, slots=slots, capacity=capacity)
        except BaseException:
            self.held.close()
            raise

    def add(self, job: Job) -> None:
        if self.engine is None:  # the last one failed: its caches may have held the memory that was missing
            self.engine = make_engine(self.loaded, slots=self.slots, capacity=self.capacity)
        job.number = self.engine.add(job.request)
        self.jobs[job.number] = job

    def cancel(self, job: Job) -> None:
        if self.jobs.pop(job.number, None) and self.engine:
            self.engine.cancel(job.number)

    @property
    def busy(self) -> bool:
        return self.engine is not None and self.engine.busy

    def step(self) -> list[Event]:
        """One token of every text under way."""
        assert self.engine is not None
        events: list[Event] = []
        for token in self.engine.step():
            job = self.jobs.get(token.request)
            if job is None:
                continue
            if token.ended:
                job.done = True
                del self.jobs[token.request]
            events.append((job, token))
        return events

    def fail(self) -> list[Event]:
        """Ends all jobs, and the engine with them."""
        events: list[Event] = [(job, failed()) for job in self.jobs.values()]
        self.jobs.clear()
        self.engine = None
        return events

    def close(self) -> None:
        self.engine = None
        self.held.close()
