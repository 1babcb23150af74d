"""Answers that end when the client goes: server-sent events, and one JSON object that took a while.

Starlette's own streaming notices a closed connection late or never; here one task listens for it beside the work, and
whichever ends first ends the other."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Awaitable
from typing import TypeVar

from fastapi import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from florilegium.serve.api_errors import ApiError

T = TypeVar("T")
JsonObject = dict[str, object]
Events = AsyncGenerator[JsonObject | None]  # None: nothing to say, but alive
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


class EventStream(Response):
    """`data: {json}` for each event, `[DONE]` at the end; an error that comes on the way is an event too. `held`
    is let go with the answer, also where the client went before it began."""

    def __init__(self, events: Events, held: contextlib.ExitStack) -> None:
        super().__init__()
        self.events, self.held = events, held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self.held, contextlib.suppress(ClientGone):
            await unless_gone(self._send(send), receive)

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})

        async def write(text: str, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": text.encode(), "more_body": more})

        try:
            async with contextlib.aclosing(self.events) as events:
                async for event in events:
                    await write(": alive\n\n" if event is None else _data(event))
            await write("data: [DONE]\n\n")
        except ApiError as error:
            await write(_data(error.body()))
        await write("", more=False)


def _data(event: JsonObject) -> str:
    return f"data: {json.dumps(event, ensure_ascii=False)}\n\n"
