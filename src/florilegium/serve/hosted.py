"""An engine with the models whose texts it writes, and the jobs under way. All of it belongs to the worker's thread.

Models over one base's weights, each with plain LoRA, share an engine: the base without an adapter, which takes theirs in,
so that their texts are rows of one batch (`model/row_adapters.py`). Any other model has an engine of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from florilegium.generation import Engine, Request, TokenEvent, make_engine
from florilegium.generation.engine import decodes_fast, ready
from florilegium.model import LoadedModel, fast_paths
from florilegium.model.row_adapters import unsupported, without_adapter
from florilegium.serve.api_errors import ApiError

PLACES = 4  # for adapters at first; on a GPU more are made when they come


def failed() -> ApiError:
    return ApiError(
        500,
        "generation failed",
        "See the server's log; /health says whether the server still works",
        code="engine_failed",
    )


@dataclass(eq=False)
class Job:
    """A request to a model, and who hears of its tokens: of a TokenEvent each, or of the error that ended it. Its
    request's `adapter` is 0 for the model's own, or None for the base."""

    loaded: LoadedModel
    request: Request
    deliver: Callable[[TokenEvent | ApiError], None]
    number: int = -1
    cancelled: bool = False
    done: bool = False


Event = tuple[Job, TokenEvent | ApiError]


@dataclass
class _Model:
    """A model that the engine writes for; its adapter's number there. `retired`: it leaves when its jobs are done."""

    loaded: LoadedModel
    adapter: int = 0
    retired: bool = False
    held: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)


class Hosted:
    """Empty at first: `take` gives it models."""

    def __init__(self, loaded: LoadedModel, slots: int, capacity: int) -> None:
        """An engine that can take `loaded`. Raises what making it raises."""
        self.key, self.slots, self.capacity = _key(loaded), slots, capacity
        self.own = loaded if self.key is None else without_adapter(loaded)
        self.models: dict[int, _Model] = {}
        self.jobs: dict[int, Job] = {}
        self.held = contextlib.ExitStack()
        self.held.enter_context(ready(self.own))
        try:
            self.engine: Engine | None = self._make_engine()
        except BaseException:
            self.held.close()
            raise

    def _make_engine(self) -> Engine:
        return make_engine(self.own, slots=self.slots, capacity=self.capacity, places=1 if self.key is None else PLACES)

    def takes(self, loaded: LoadedModel) -> bool:
        return self.key is not None and self.key == _key(loaded)

    def take(self, loaded: LoadedModel, *, retired: bool = False) -> None:
        """A model that it `takes`, or was made for. Raises what making room for its adapter raises."""
        model = _Model(loaded, retired=retired)
        if self.key is not None:
            if self.engine is not None:
                model.adapter = self.engine.add_adapter(loaded)
            try:
                # whoever asks the model itself, for probabilities, multiplies by the same copies
                model.held.enter_context(fast_paths.lend_dequantized(self.own.model, loaded.model))
            except BaseException:
                if self.engine is not None:  # nobody would ever take it out again
                    self.engine.remove_adapter(model.adapter)
                raise
        self.models[id(loaded)] = model

    def retire(self, loaded: LoadedModel) -> None:
        if model := self.models.get(id(loaded)):
            model.retired = True

    def let_go(self) -> bool:
        """Lets the retired models go whose jobs are done; whether none is left."""
        busy = {id(job.loaded) for job in self.jobs.values()}
        for key, model in [(key, model) for key, model in self.models.items() if model.retired and key not in busy]:
            if self.key is not None and self.engine is not None:
                self.engine.remove_adapter(model.adapter)
            model.held.close()
            del self.models[key]
        return not self.models

    def add(self, job: Job) -> None:
        """The job's model was taken."""
        if self.engine is None:  # the last one failed: its caches may have held the memory that was missing
            engine = self._make_engine()
            for model in self.models.values() if self.key is not None else ():
                model.adapter = engine.add_adapter(model.loaded)
            self.engine = engine  # with all of them or not at all: a text must not be written with another's
        adapter = None if job.request.adapter is None else self.models[id(job.loaded)].adapter
        job.number = self.engine.add(replace(job.request, adapter=adapter))
        self.jobs[job.number] = job

    def cancel(self, job: Job) -> None:
        if self.jobs.get(job.number) is job and self.engine:
            del self.jobs[job.number]
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
        if self.key is not None and self.engine is not None:
            for model in self.models.values():
                # hooks stay on the modules that the next engine writes with: they must have nothing to add
                self.engine.remove_adapter(model.adapter)
        self.engine = None
        return events

    def close(self) -> None:
        self.engine = None
        for model in self.models.values():
            model.held.close()
        self.held.close()


def _key(loaded: LoadedModel) -> tuple[int, bool] | None:
    """The same for models that can share an engine; None for one that has its own."""
    if unsupported(loaded):
        return None
    return id(loaded.base.source), decodes_fast(loaded)
