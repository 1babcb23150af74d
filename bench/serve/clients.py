"""Clients of a server, many in one process: HTTP/1.1 and server-sent events on asyncio's own protocols, so that reading
costs a few microseconds a token. What came is decoded when the round is over.

    python -m bench.serve.clients HOST PORT          a side of `bench/serve/http.py`"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from typing import Any

from bench.serve.rounds import Ask, Round, Written, answer, rounds_asked

EVENT, LAST_CHUNK = b"data: {", b"\r\n0\r\n\r\n"


class Stream(asyncio.Protocol):
    """One connection, kept open; `ask` sends a request and waits for the end of its stream."""

    def __init__(self) -> None:
        self.done: asyncio.Future[None] | None = None
        self.got, self.times = bytearray(), list[float]()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        now, seen = time.monotonic(), max(0, len(self.got) - len(EVENT) + 1)
        self.got += data
        self.times += [now] * self.got.count(EVENT, seen)
        if self.got.endswith(LAST_CHUNK) and self.done is not None:
            self.done.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if self.done is not None and not self.done.done():
            self.done.set_exception(ConnectionError(f"the server hung up: {bytes(self.got[:300])!r}"))

    async def ask(self, ask: Ask, tokens: int) -> tuple[float, list[float], bytes]:
        """When it was sent, when events came, and what came."""
        values = {"prompt": ask.prompt, "seed": ask.seed, "max_tokens": tokens, "stream": True}
        body = json.dumps({**values, "stream_options": {"include_usage": True}}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n"
        self.got, self.times, self.done = bytearray(), [], asyncio.get_running_loop().create_future()
        began = time.monotonic()
        self.transport.write(head.encode() + b"content-type: application/json\r\n\r\n" + body)
        await asyncio.wait_for(self.done, 600)
        return began, self.times, bytes(self.got)


def events_in(response: bytes) -> list[dict[str, Any]]:
    head, _, rest = response.partition(b"\r\n\r\n")
    if b" 200 " not in head.partition(b"\r\n")[0]:
        raise SystemExit(f"the server answered: {response[:500]!r}")
    body = bytearray()
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        body += rest[: int(size, 16)]
        rest = rest[int(size, 16) + 2 :]
    lines = bytes(body).decode().split("\n\n")
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


async def run(streams: list[Stream], round: Round) -> Written:
    async def one(stream: Stream, asks: list[Ask]) -> list[tuple[Ask, float, list[float], bytes]]:
        return [(ask, *await stream.ask(ask, round.tokens)) for ask in asks]

    began = time.monotonic()
    found = await asyncio.gather(*[one(stream, asks) for stream, asks in zip(streams, round.clients, strict=False)])
    written = Written(began, time.monotonic())
    for ask, sent, times, response in [each for client in found for each in client]:
        *pieces, usage = events_in(response)
        text = "".join(piece["choices"][0]["text"] for piece in pieces)
        written.add(sent, times[:-1], usage["usage"]["completion_tokens"], ask.seed, text)
    return written


def main() -> None:
    host, port = sys.argv[1], int(sys.argv[2])
    loop = asyncio.new_event_loop()
    streams: list[Stream] = []
    gc.disable()
    for round in rounds_asked():
        while len(streams) < len(round.clients):
            streams.append(loop.run_until_complete(loop.create_connection(Stream, host, port))[1])
        answer(loop.run_until_complete(run(streams, round)))
        gc.collect()


if __name__ == "__main__":
    main()
