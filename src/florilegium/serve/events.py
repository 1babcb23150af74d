"""Answers that end when the client goes: server-sent events, and one JSON object that took a while.

Starlette's own streaming notices a closed connection late or never; here one task listens for it beside the work, and
whichever ends first ends the other."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeVar

from fastapi import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from florilegium.serve.api_errors import ApiError

T = TypeVar("T")
JsonObject = dict[str, object]
Events = AsyncGenerator[JsonObject | None]  # None: nothing to say, but alive
Frames = AsyncGenerator[str]  # one event or several, as they are sent: one write
ALIVE, DONE = ": alive\n\n", "data: [DONE]\n\n"
_MARK = "\0"  # no text of ours holds it in a name or an id
_json = json.JSONEncoder(ensure_ascii=False).encode
HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class ClientGone(Exception):
    """The connection was closed before the answer was there."""


async def unless_gone(work: Awaitable[T], receive: Receive) -> T:
    """The result of `work`, which is cancelled when the client goes (ClientGone)."""
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGone
    finally:
        gone.cancel()
        working.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await working


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def answer(work: Awaitable[JsonObject], request: Request) -> Response:
    try:
        body = await unless_gone(work, request.receive)
    except ClientGone:
        return Response(status_code=499)  # nobody reads it; nginx's number for the count in /metrics
    return Response(json.dumps(body, ensure_ascii=False), media_type="application/json")


def frame(event: JsonObject) -> str:
    return f"data: {_json(event)}\n\n"


class TextFrames:
    """Frames of events that differ in one text: all else becomes JSON once, not for each token."""

    def __init__(self, event_of: Callable[[str], JsonObject]) -> None:
        self.before, self.after = frame(event_of(_MARK)).split(_json(_MARK))

    def of(self, text: str) -> str:
        return f"{self.before}{_json(text)}{self.after}"


async def frames_of(events: Events) -> Frames:
    """Each event by itself."""
    async with contextlib.aclosing(events):
        async for event in events:
            yield ALIVE if event is None else frame(event)


class EventStream(Response):
    """Server-sent events, `[DONE]` at the end; an error that comes on the way is an event too. `held` is let go with the
    answer, also where the client went before it began."""

    def __init__(self, frames: Frames, held: contextlib.ExitStack) -> None:
        super().__init__()
        self.frames, self.held = frames, held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self.held, contextlib.suppress(ClientGone):
            await unless_gone(self._send(send), receive)

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})

        async def write(text: str, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": text.encode(), "more_body": more})

        try:
            async with contextlib.aclosing(self.frames) as frames:
                async for text in frames:
                    await write(text)
            await write(DONE)
        except ApiError as error:
            await write(frame(error.body()))
        await write("", more=False)
