"""A stream's writes: what the engine wrote while the client was busy comes at once, each token an event of its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from florilegium.generation import TokenEvent
from florilegium.generation.tuned import Tuned, load
from florilegium.model.shared_base import Bases
from florilegium.serve import choices
from florilegium.serve.api_errors import ApiError
from florilegium.serve.app import make_app
from florilegium.serve.hosted import failed
from florilegium.serve.metrics import Metrics
from florilegium.serve.models import Models, ServedModel
from florilegium.serve.prompts import asked_of
from florilegium.serve.settings import ServeSettings
from florilegium.serve.state import ServerState
from florilegium.serve.worker import Worker


@pytest.fixture(scope="module")
def tuned(run: Path) -> Tuned:
    return load(run, device="cpu", bases=Bases())


@pytest.fixture(scope="module")
def state(run: Path, tuned: Tuned) -> Iterator[ServerState]:
    worker = Worker(slots=4, max_length=128, queue_size=8)
    worker.start()
    models = Models(worker, lambda path, bases: tuned, [run])
    models.open(run)
    yield ServerState(ServeSettings(), models, worker)
    worker.stop()


async def asked(state: ServerState, slow: bool, path: str, **body: object) -> list[bytes]:
    """The writes of an answer. A client that is slow takes its second one when all is written."""
    state.worker.post = asyncio.get_running_loop().call_soon_threadsafe
    came: list[bytes] = []
    text = json.dumps({"seed": 3, "max_tokens": 8, "temperature": 1.0, **body}).encode()
    told = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if told.is_set():
            await asyncio.Event().wait()
        told.set()
        return {"type": "http.request", "body": text, "more_body": False}

    async def send(message: Any) -> None:
        came.append(message.get("body", b""))
        while slow and len(came) == 3 and state.worker.running:
            await asyncio.sleep(0.005)

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"", "headers": headers,
        "http_version": "1.1", "scheme": "http", "server": ("localhost", 80), "client": ("localhost", 1), "root_path": "",
    }  # fmt: skip
    await make_app(ServerState(state.settings, state.models, state.worker))(scope, receive, send)
    return [write for write in came if write]


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/quotes"])
def test_a_slow_client_gets_the_same_events_in_fewer_writes(state: ServerState, path: str) -> None:
    body: dict[str, object] = {"stream": True}
    body |= {"messages": [{"role": "user", "content": "The sea"}]} if "chat" in path else {"prompt": "The sea"}
    quick = asyncio.run(asked(state, False, path, **body))
    slow = asyncio.run(asked(state, True, path, **body))
    events = [[_without_name(event) for event in b"".join(writes).split(b"\n\n")[:-1]] for writes in (quick, slow)]
    assert events[0] == events[1] and len(events[0]) >= 9, events
    assert len(slow) <= 5, [write.count(b"data:") for write in slow]


def _without_name(event: bytes) -> Any:
    """An event but for what is another in each answer."""
    text = event.decode().removeprefix("data: ")
    return text if text == "[DONE]" else {**json.loads(text), "id": None, "created": None}


def one_text(state: ServerState, tuned: Tuned, run: Path) -> choices.Texts:
    """Whose tokens are put there by the test."""
    served = ServedModel("sayings", run, tuned, True, 128)
    prompts = asked_of(served, ["The sea"], tuned.sampling(max_new_tokens=100))
    return choices.Texts(state.worker, served, prompts, (), Metrics())


def test_what_came_before_a_failure_is_told_before_it(state: ServerState, tuned: Tuned, run: Path) -> None:
    async def read() -> None:
        texts = one_text(state, tuned, run)
        for event in (TokenEvent(0, 300, False), failed(), TokenEvent(0, 301, False)):
            texts.inbox.put(0, event)
        assert [piece.token_id for piece in await texts.more()] == [300]
        for _ in range(2):
            with pytest.raises(ApiError, match="generation failed"):
                await texts.more()
        texts.inbox.close()

    asyncio.run(read())


def test_a_text_that_has_ended_fails_no_other(state: ServerState, tuned: Tuned, run: Path) -> None:
    """Its token was under way when its stop string came, and is not looked at any more."""

    async def read() -> None:
        served = ServedModel("sayings", run, tuned, True, 128)
        prompts = asked_of(served, ["The sea", "The sea"], tuned.sampling(max_new_tokens=100))
        texts = choices.Texts(state.worker, served, prompts, (), Metrics())
        ended, broken = TokenEvent(0, 300, True), TokenEvent(0, None, True, broken=True)
        for number, event in ((0, ended), (0, broken), (1, TokenEvent(1, 301, False))):
            texts.inbox.put(number, event)
        assert [piece.token_id for piece in await texts.more()] == [300, 301]
        texts.inbox.close()

    asyncio.run(read())


def test_where_nothing_comes_a_stream_says_that_it_is_alive(
    state: ServerState, tuned: Tuned, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choices, "QUIET_SECONDS", 0.01)

    async def read() -> None:
        texts = one_text(state, tuned, run)
        assert [await texts.more() for _ in range(3)] == [[], [], []]
        texts.inbox.close()

    asyncio.run(read())
