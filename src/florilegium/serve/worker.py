"""The thread that owns the model. Everything else hands it jobs and hears of their tokens.

    worker = Worker(loaded, slots=16, capacity=1024, queue=256)
    worker.start()                       returns when the engine is made, or raises what went wrong
    worker.submit(job); worker.cancel(job)
    worker.stop()

Between two steps of the engine the thread takes in what was submitted and cancelled. `job.deliver` is called once for each
token, in the thread that `worker.post` brings it to: the event loop of the server, many tokens at a time."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from florilegium.generation import Engine, Request, TokenEvent, make_engine
from florilegium.generation.engine import ready
from florilegium.model import LoadedModel
from florilegium.serve.api_errors import ApiError

log = logging.getLogger("florilegium.serve")


def failed() -> ApiError:
    return ApiError(500, "the model failed while it wrote; see the server's log", code="engine_failed")


@dataclass(eq=False)
class Job:
    """A request, and who hears of its tokens: of a TokenEvent each, or of the error that ended it."""

    request: Request
    deliver: Callable[[TokenEvent | ApiError], None]
    number: int = -1
    cancelled: bool = False
    done: bool = False


Event = tuple[Job, TokenEvent | ApiError]


class Worker:
    def __init__(self, loaded: LoadedModel, *, slots: int, capacity: int, queue_size: int) -> None:
        self.loaded, self.capacity = loaded, capacity
        self._slots, self.queue_size = slots, queue_size
        self.inbox: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self.jobs: dict[int, Job] = {}
        self.post: Callable[[Callable[[], None]], object] = lambda call: call()
        self.engine: Engine | None = None
        self.failure: BaseException | None = None
        self.made = threading.Event()
        self.lock, self.taken = threading.Lock(), 0
        self.thread = threading.Thread(target=self._run, name="florilegium-engine", daemon=True)

    def start(self) -> None:
        self.thread.start()
        self.made.wait()
        if self.failure is not None:
            raise self.failure

    def stop(self) -> None:
        self.inbox.put(None)
        self.thread.join(timeout=60)

    @property
    def alive(self) -> bool:
        return self.thread.is_alive() and self.failure is None

    @property
    def slots(self) -> int:
        return self.engine.slots if self.engine else self._slots

    @property
    def running(self) -> int:
        return self.engine.running if self.engine else 0

    @property
    def waiting(self) -> int:
        return max(0, len(self.jobs) - self.running)

    @contextlib.contextmanager
    def places(self, texts: int) -> Iterator[None]:
        """Room for that many texts while a request is answered. Raises ApiError (429) when the queue is full."""
        with self.lock:
            if self.taken and self.taken + texts > self.slots + self.queue_size:
                raise ApiError(429, "the queue is full; try again in a moment", code="queue_full", retry_after=1)
            self.taken += texts
        try:
            yield
        finally:
            with self.lock:
                self.taken -= texts

    def submit(self, job: Job) -> None:
        if not self.alive:
            raise failed()
        self.inbox.put(job)

    def cancel(self, job: Job) -> None:
        if not job.done:
            job.cancelled = True
            self.inbox.put(job)

    def _run(self) -> None:
        try:
            with ready(self.loaded):
                while self._work():
                    self.engine = None  # its caches may hold the memory that was missing
        except BaseException as error:  # handed to whoever waits in `start`, or told by /health
            self.failure = error
            self._fail_all()
        finally:
            self.made.set()

    def _work(self) -> bool:
        """With an engine made anew, until it fails (True) or the server stops."""
        self.engine = make_engine(self.loaded, slots=self._slots, capacity=self.capacity)
        self.made.set()
        while self._take_in(self.engine):
            try:
                self._tell(self._step(self.engine))
            except Exception as error:
                _log_without_values(error)
                self._fail_all()
                return True
        return False

    def _take_in(self, engine: Engine) -> bool:
        """Jobs that came since the last step; waits for one while there is nothing to write. False: stop."""
        while True:
            try:
                job = self.inbox.get(block=not engine.busy)
            except queue.Empty:
                return True
            if job is None:
                return False
            if job.cancelled:
                job.done = True
                if self.jobs.pop(job.number, None):
                    engine.cancel(job.number)
            elif not job.done:
                job.number = engine.add(job.request)
                self.jobs[job.number] = job

    def _step(self, engine: Engine) -> list[Event]:
        events: list[Event] = []
        for token in engine.step():
            job = self.jobs.get(token.request)
            if job is None:
                continue
            if token.ended:
                job.done = True
                del self.jobs[token.request]
            events.append((job, token))
        return events

    def _fail_all(self) -> None:
        events: list[Event] = [(job, failed()) for job in self.jobs.values()]
        with contextlib.suppress(queue.Empty):
            while job := self.inbox.get_nowait():
                events.append((job, failed()))
        self.jobs.clear()
        self._tell(events)

    def _tell(self, events: list[Event]) -> None:
        def deliver() -> None:
            for job, event in events:
                if not job.cancelled:
                    job.deliver(event)

        if events:
            with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody listens any more
                self.post(deliver)


def _log_without_values(error: Exception) -> None:
    """Where it happened and what kind of error it is: its words might hold a request's text."""
    where = "".join(traceback.format_tb(error.__traceback__))
    log.error("%s in the engine\n%s", type(error).__name__, where)
