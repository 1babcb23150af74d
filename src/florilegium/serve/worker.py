"""The thread that owns the models. Everything else hands it jobs and hears of their tokens.

    worker = Worker(slots=16, max_length=1024, queue_size=256)
    worker.start()
    worker.call(function).result()       runs it in that thread, between two steps: loads a model, makes its engine (`host`)
    worker.submit(job); worker.cancel(job)
    worker.stop()

Between two steps of the engines the thread takes in what was submitted, cancelled and called. `job.deliver` is called once
for each token, in the thread that `worker.post` brings it to: the event loop of the server, many tokens at a time."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TypeVar

from florilegium.errors import ModelError
from florilegium.model import LoadedModel
from florilegium.serve.api_errors import ApiError
from florilegium.serve.hosted import Event, Hosted, Job, failed

log = logging.getLogger("florilegium.serve")
T = TypeVar("T")
Call = Callable[[], None]
SLOTS = {"cpu": 16, "cuda": 64}  # texts that are written at once


class Worker:
    def __init__(self, *, slots: int | None, max_length: int, queue_size: int) -> None:
        self._slots, self.max_length, self.queue_size = slots, max_length, queue_size
        self.inbox: queue.SimpleQueue[Job | Call | None] = queue.SimpleQueue()
        self.hosted: list[Hosted] = []
        self.post: Callable[[Call], object] = lambda call: call()
        self.failure: BaseException | None = None
        self.lock, self.taken = threading.Lock(), 0
        self.thread = threading.Thread(target=self._run, name="florilegium-engine", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        self.inbox.put(None)
        self.thread.join(timeout=60)

    @property
    def alive(self) -> bool:
        return self.thread.is_alive() and self.failure is None

    @property
    def slots(self) -> int:
        """Texts that are written at once, by one engine."""
        return min((one.engine.slots for one in [*self.hosted] if one.engine), default=self._slots or SLOTS["cpu"])

    @property
    def running(self) -> int:
        return sum(one.engine.running for one in [*self.hosted] if one.engine)

    @property
    def waiting(self) -> int:
        return max(0, sum(len(one.jobs) for one in [*self.hosted]) - self.running)

    def capacity(self, loaded: LoadedModel) -> int:
        """Tokens of a text at most: what was asked for, or fewer where the model's positions end."""
        positions = getattr(loaded.base.model.config, "max_position_embeddings", None)
        if positions is not None and positions < 2:
            raise ModelError(f"max_position_embeddings is {positions}", "Get the model's config.json again")
        return min(self.max_length, positions or self.max_length)

    @contextlib.contextmanager
    def places(self, texts: int) -> Iterator[None]:
        """Room for that many texts while a request is answered. Raises ApiError (429) when the queue is full."""
        with self.lock:
            if self.taken and self.taken + texts > self.slots + self.queue_size:
                fix = "Try again in a moment, or start the server with a larger --queue"
                raise ApiError(429, "the queue is full", fix, code="queue_full", retry_after=1)
            self.taken += texts
        try:
            yield
        finally:
            with self.lock:
                self.taken -= texts

    def retire(self, loaded: LoadedModel) -> None:
        """The model leaves when what it writes is done."""

        def leave() -> None:
            for one in self.hosted:
                one.retire(loaded)

        self.call(leave)

    def submit(self, job: Job) -> None:
        if not self.alive:
            raise failed()
        self.inbox.put(job)

    def cancel(self, job: Job) -> None:
        if not job.done:
            job.cancelled = True
            self.inbox.put(job)

    def call(self, function: Callable[[], T]) -> Future[T]:
        """Runs in the thread that owns the models: whatever loads or asks one without its engine."""
        done: Future[T] = Future()
        if not self.alive:
            done.set_exception(failed())

        def run() -> None:
            try:
                done.set_result(function())
            except BaseException as error:
                done.set_exception(error)

        if not done.done():
            self.inbox.put(run)
        return done

    def _run(self) -> None:
        try:
            while self._take_in():
                for one in self.hosted:
                    self._work(one)
                self._let_go()
        except BaseException as error:  # told by /health
            self.failure = error
            _log_without_values(error)
            self._fail_all()

    def host(self, loaded: LoadedModel, *, retired: bool = False) -> Hosted:
        """Gives the model an engine, in this thread: one that is there and takes it, or a new one. Raises what making
        it raises."""
        one = next((one for one in self.hosted if id(loaded) in one.models), None)
        if one is not None:
            return one
        one = next((one for one in self.hosted if one.takes(loaded)), None)
        if one is None:
            slots = self._slots or SLOTS[loaded.base.device.type]
            one = Hosted(loaded, slots, self.capacity(loaded))
            self.hosted.append(one)
        one.take(loaded, retired=retired)
        return one

    def _let_go(self) -> None:
        for one in [one for one in self.hosted if one.let_go()]:
            self.hosted.remove(one)
            one.close()

    def _take_in(self) -> bool:
        """What came since the last step; waits while there is nothing to write. False: stop."""
        while True:
            try:
                item = self.inbox.get(block=not any(one.busy for one in self.hosted))
            except queue.Empty:
                return True
            if item is None:
                return False
            if not isinstance(item, Job):
                item()
                self._let_go()
            elif item.cancelled:
                item.done = True
                for one in self.hosted:
                    one.cancel(item)
            elif not item.done:
                self._add(item)

    def _add(self, job: Job) -> None:
        try:
            # A model that left while its request was on the way comes back for that one.
            self.host(job.loaded, retired=True).add(job)
        except Exception as error:
            _log_without_values(error)
            self._tell([(job, failed())])

    def _work(self, one: Hosted) -> None:
        if not one.busy:
            return
        try:
            self._tell(one.step())
        except Exception as error:
            _log_without_values(error)
            self._tell(one.fail())

    def _fail_all(self) -> None:
        events = [event for one in self.hosted for event in one.fail()]
        with contextlib.suppress(queue.Empty):
            while True:
                item = self.inbox.get_nowait()
                if isinstance(item, Job):
                    events.append((item, failed()))
        self._tell(events)

    def _tell(self, events: list[Event]) -> None:
        def deliver() -> None:
            for job, event in events:
                if not job.cancelled:
                    job.deliver(event)

        if events:
            with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody listens any more
                self.post(deliver)


def _log_without_values(error: BaseException) -> None:
    """Where it happened and what kind of error it is: its words might hold a request's text."""
    where = "".join(traceback.format_tb(error.__traceback__))
    log.error("%s in the engine\n%s", type(error).__name__, where)
