"""The texts of one HTTP request while they are written: tokens from the worker's thread, text for the client.

Leaving `pieces` by any way (the end, a stop string, a closed connection) cancels what still runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from functools import partial

from florilegium.generation import TokenEvent
from florilegium.generation.text_pieces import TextPieces
from florilegium.serve.api_errors import ApiError
from florilegium.serve.hosted import Job, failed
from florilegium.serve.metrics import Metrics
from florilegium.serve.models import ServedModel
from florilegium.serve.prompts import Asked
from florilegium.serve.worker import Worker

QUIET_SECONDS = 15  # so often a stream says that it is alive
Came = asyncio.Queue[tuple[int, TokenEvent | ApiError] | None]


@dataclass(frozen=True)
class Piece:
    """More of choice number `choice`; `finish` is "stop" or "length" at its end. `token`: whether a token was written
    (an end-of-text is none)."""

    choice: int
    text: str
    token: bool = False
    finish: str | None = None
    token_id: int | None = None


async def pieces(
    worker: Worker,
    model: ServedModel,
    asked: Sequence[Asked],
    stop: Sequence[str],
    metrics: Metrics,
) -> AsyncGenerator[Piece | None]:
    """Pieces of all texts as they come; None now and then, when there may be nothing to say. Raises ApiError when the
    model fails."""
    came: Came = asyncio.Queue()
    tokenizer = model.tuned.base.tokenizer
    jobs = [Job(model.tuned.loaded, one.request, partial(_put, came, i)) for i, one in enumerate(asked)]
    texts = [TextPieces(tokenizer, one.request.token_ids, stop) for one in asked]
    clock = metrics.start(sum(len(one.request.token_ids) for one in asked))
    quiet = asyncio.ensure_future(_say_nothing(came))
    try:
        for i, job in enumerate(jobs):
            worker.submit(job)
            if asked[i].lead:
                yield Piece(i, asked[i].lead)
        running = len(jobs)
        while running:
            event = await came.get()
            if event is None:
                yield None
                continue
            i, written = event
            if isinstance(written, ApiError) or written.broken:
                raise written if isinstance(written, ApiError) else failed()
            if jobs[i].cancelled:
                continue  # a token that was under way when its stop string came
            clock.token()
            piece = _piece(i, texts[i], written)
            if piece.finish:
                running -= 1
                worker.cancel(jobs[i])
            yield piece
    finally:
        quiet.cancel()
        for job in jobs:
            worker.cancel(job)


async def _say_nothing(came: Came) -> None:
    """One timer a request, not one a token: those cost as much as a token's text."""
    while True:
        await asyncio.sleep(QUIET_SECONDS)
        came.put_nowait(None)


def _put(came: Came, i: int, written: TokenEvent | ApiError) -> None:
    came.put_nowait((i, written))


def _piece(i: int, text: TextPieces, written: TokenEvent) -> Piece:
    is_token = written.token_id is not None
    new = "" if written.token_id is None else text.push(written.token_id)
    if written.ended and not text.stopped:
        new += text.end()
    finish = "stop" if text.stopped or not is_token else "length" if written.ended else None
    return Piece(i, new, is_token, finish, written.token_id)
