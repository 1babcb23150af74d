"""The thread that owns the models: what a failure leaves behind, and tokens that come late."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import NoReturn, cast

import pytest

from florilegium.config import SamplingSettings
from florilegium.generation import Request, TokenEvent
from florilegium.generation.engine import BatchEngine
from florilegium.generation.tuned import Tuned, load
from florilegium.model import fast_paths
from florilegium.model.shared_base import Bases
from florilegium.serve.hosted import Hosted, Job
from florilegium.serve.models import Models, ServedModel
from florilegium.serve.quotes import ServedTuned
from florilegium.serve.settings import ServeSettings
from florilegium.serve.state import ServerState
from florilegium.serve.worker import Worker
from florilegium.tokens import text_ids


@pytest.fixture(scope="module")
def tuned(run: Path) -> Tuned:
    return load(run, device="cpu", bases=Bases())


def tokens_of(hosted: Hosted, tuned: Tuned, texts: int) -> list[list[int | None]]:
    (ids,) = text_ids(tuned.base.tokenizer, ["The sea"])
    request = Request(ids, 0, SamplingSettings(temperature=0.0, max_new_tokens=12))
    jobs = [Job(tuned.loaded, request, lambda event: None) for _ in range(texts)]
    for job in jobs:
        hosted.add(job)
    written: dict[int, list[int | None]] = {id(job): [] for job in jobs}
    while hosted.busy:
        for job, event in hosted.step():
            assert isinstance(event, TokenEvent)
            written[id(job)].append(event.token_id)
    return list(written.values())


@pytest.mark.parametrize("texts", [1, 3])
def test_after_a_failure_the_adapter_counts_once(tuned: Tuned, texts: int) -> None:
    """The engine's successor writes with the same modules: what the first hung on them must add nothing more."""
    hosted = Hosted(tuned.loaded, 4, 128)
    hosted.take(tuned.loaded)
    try:
        before = tokens_of(hosted, tuned, 1)
        for _ in range(2):
            hosted.fail()
            assert tokens_of(hosted, tuned, texts) == before * texts
    finally:
        hosted.close()


def test_a_model_that_cannot_be_taken_leaves_nothing_behind(tuned: Tuned, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its adapter is in the engine already when lending it the weights fails."""
    hosted = Hosted(tuned.loaded, 4, 128)
    try:
        assert hosted.engine is not None
        engine = cast(BatchEngine, hosted.engine)
        assert engine.adapters is not None
        with monkeypatch.context() as patch:
            patch.setattr(fast_paths, "lend_dequantized", out_of_memory)
            with pytest.raises(MemoryError):
                hosted.take(tuned.loaded)
        assert not hosted.models and not any(engine.adapters.linears.values())
        hosted.take(tuned.loaded)
        assert tokens_of(hosted, tuned, 1)
        assert {len(loras) for loras in engine.adapters.linears.values()} == {1}
    finally:
        hosted.close()


def test_an_engine_that_cannot_take_the_adapter_again_writes_nothing(
    tuned: Tuned, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next request would get the base's text, or another adapter's."""
    hosted = Hosted(tuned.loaded, 4, 128)
    hosted.take(tuned.loaded)
    try:
        before = tokens_of(hosted, tuned, 1)
        hosted.fail()
        with monkeypatch.context() as patch, pytest.raises(MemoryError):
            patch.setattr(BatchEngine, "add_adapter", out_of_memory)
            tokens_of(hosted, tuned, 1)
        assert tokens_of(hosted, tuned, 1) == before
    finally:
        hosted.close()


def out_of_memory(*_: object) -> NoReturn:
    raise MemoryError


@pytest.fixture
def late(run: Path, tuned: Tuned) -> Iterator[ServerState]:
    """A server's parts whose tokens come a while after the engine is done with them."""
    worker = Worker(slots=4, max_length=128, queue_size=8)
    with ThreadPoolExecutor(1) as hearing:

        def post(call: Callable[[], None]) -> None:
            hearing.submit(lambda: (time.sleep(0.05), call()))

        worker.post = post
        worker.start()
        models = Models(worker, lambda path, bases: tuned, [run])
        models.open(run)
        yield ServerState(ServeSettings(), models, worker)
        worker.stop()


def test_quotes_wait_for_the_last_token_however_late(late: ServerState, run: Path, tuned: Tuned) -> None:
    own = {one.name: getattr(tuned, one.name) for one in fields(Tuned)}
    served = ServedModel("sayings", run, tuned, True, 128)
    drawing = ServedTuned(**own, state=late, served=served)
    settings = SamplingSettings(seed=3, max_new_tokens=6)
    assert [row.text for row in drawing.complete(["The sea"], settings)] == [
        row.text for row in tuned.complete(["The sea"], settings)
    ]
