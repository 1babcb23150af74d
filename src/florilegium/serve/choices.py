"""The texts of one HTTP request while they are written: tokens from the worker's thread, text for the client.

    with written(worker, model, asked, stop, metrics) as texts:
        while texts.running:
            for piece in await texts.more(): ...

One wait brings all that came in the meantime: a step of the engine wakes a request once, and a client who reads slowly
gets several tokens in one write. Leaving by any way (the end, a stop string, a closed connection) cancels what still runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

from florilegium.generation import TokenEvent
from florilegium.generation.text_pieces import TextPieces
from florilegium.serve.api_errors import ApiError
from florilegium.serve.hosted import Job, failed
from florilegium.serve.metrics import Metrics
from florilegium.serve.models import ServedModel
from florilegium.serve.prompts import Asked
from florilegium.serve.worker import Worker

QUIET_SECONDS = 15  # so often a stream says that it is alive


class Piece(NamedTuple):  # one is made for each token: a frozen dataclass takes five times as long
    """More of choice number `choice`; `finish` is "stop" or "length" at its end. `token`: whether a token was written
    (an end-of-text is none)."""

    choice: int
    text: str
    token: bool = False
    finish: str | None = None
    token_id: int | None = None


class Inbox:
    """What came and was not read yet. It belongs to the event loop, and has one reader."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.events: list[tuple[int, TokenEvent | ApiError]] = []
        self.reader: asyncio.Future[None] | None = None
        self._begin_quiet()

    def put(self, i: int, written: TokenEvent | ApiError) -> None:
        self.events.append((i, written))
        self._wake()

    async def take(self) -> list[tuple[int, TokenEvent | ApiError]]:
        """All that came, or nothing where for QUIET_SECONDS nothing did."""
        if not self.events:
            self.reader = self.loop.create_future()
            await self.reader
        taken, self.events = self.events, []
        return taken

    def close(self) -> None:
        self.timer.cancel()

    def _wake(self) -> None:
        if self.reader is not None and not self.reader.done():
            self.reader.set_result(None)

    def _begin_quiet(self) -> None:
        # one timer a request, not one a token: those cost as much as a token's text
        self.timer = self.loop.call_later(QUIET_SECONDS, self._be_quiet)

    def _be_quiet(self) -> None:
        self._begin_quiet()
        self._wake()


class Texts:
    """`running`: texts that have not ended."""

    def __init__(
        self, worker: Worker, model: ServedModel, asked: Sequence[Asked], stop: Sequence[str], metrics: Metrics
    ) -> None:
        self.worker, tokenizer = worker, model.tuned.base.tokenizer
        self.inbox, self.running = Inbox(), len(asked)
        self.jobs = [Job(model.tuned.loaded, one.request, partial(self.inbox.put, i)) for i, one in enumerate(asked)]
        self.ended = [False] * len(asked)
        self.texts = [TextPieces(tokenizer, one.request.token_ids, stop) for one in asked]
        self.leads = [Piece(i, one.lead) for i, one in enumerate(asked) if one.lead]
        self.clock = metrics.start(sum(len(one.request.token_ids) for one in asked))
        self.failure: ApiError | None = None

    async def more(self) -> list[Piece]:
        """The pieces that came since; none now and then, when there may be nothing to say. Raises ApiError when the
        model fails."""
        if self.leads:
            leads, self.leads = self.leads, []
            return leads
        while True:
            if self.failure is not None:
                raise self.failure
            events = await self.inbox.take()
            pieces = self._read(events)
            if pieces or not events:
                return pieces

    def _read(self, events: Sequence[tuple[int, TokenEvent | ApiError]]) -> list[Piece]:
        pieces = []
        for i, written in events:
            if self.ended[i]:
                continue  # a token that was under way when its stop string came
            if isinstance(written, ApiError) or written.broken:
                # told once what came before it was read
                self.failure = written if isinstance(written, ApiError) else failed()
                break
            piece = _piece(i, self.texts[i], written)
            if piece.finish:
                self.ended[i] = True
                self.running -= 1
                self.worker.cancel(self.jobs[i])
            pieces.append(piece)
        if pieces:
            self.clock.tokens(len(pieces))
        return pieces


@contextlib.contextmanager
def written(
    worker: Worker, model: ServedModel, asked: Sequence[Asked], stop: Sequence[str], metrics: Metrics
) -> Iterator[Texts]:
    """The texts under way; see `Texts.more`. Raises ApiError when the model has failed."""
    texts = Texts(worker, model, asked, stop, metrics)
    try:
        for job in texts.jobs:
            worker.submit(job)
        yield texts
    finally:
        texts.inbox.close()
        for job in texts.jobs:
            worker.cancel(job)


def _piece(i: int, text: TextPieces, written: TokenEvent) -> Piece:
    is_token = written.token_id is not None
    new = "" if written.token_id is None else text.push(written.token_id)
    if written.ended and not text.stopped:
        new += text.end()
    finish = "stop" if text.stopped or not is_token else "length" if written.ended else None
    return Piece(i, new, is_token, finish, written.token_id)
