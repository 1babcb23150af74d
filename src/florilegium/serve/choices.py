"""The texts of one HTTP request while they are written: tokens from the worker's thread, text for the client.

Leaving `pieces` by any way (the end, a stop string, a closed connection) cancels what still runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from functools import partial

from transformers import PreTrainedTokenizerBase

from florilegium.generation import TokenEvent
from florilegium.generation.text_pieces import TextPieces
from florilegium.serve.api_errors import ApiError
from florilegium.serve.metrics import Metrics
from florilegium.serve.prompts import Asked
from florilegium.serve.worker import Job, Worker, failed

QUIET_SECONDS = 15  # after so long without a token a stream says that it is alive


@dataclass(frozen=True)
class Piece:
    """More of choice number `choice`; `finish` is "stop" or "length" at its end. `token`: whether a token was written
    (an end-of-text is none)."""

    choice: int
    text: str
    token: bool = False
    finish: str | None = None


async def pieces(
    worker: Worker,
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[Asked],
    stop: Sequence[str],
    metrics: Metrics,
) -> AsyncGenerator[Piece | None]:
    """Pieces of all texts as they come; None after a quiet time. Raises ApiError when the model fails."""
    came: asyncio.Queue[tuple[int, TokenEvent | ApiError]] = asyncio.Queue()
    jobs = [Job(one.request, partial(_put, came, i)) for i, one in enumerate(asked)]
    texts = [TextPieces(tokenizer, one.request.token_ids, stop) for one in asked]
    clock = metrics.start(sum(len(one.request.token_ids) for one in asked))
    try:
        for i, job in enumerate(jobs):
            worker.submit(job)
            if asked[i].lead:
                yield Piece(i, asked[i].lead)
        running = len(jobs)
        while running:
            try:
                i, written = await asyncio.wait_for(came.get(), QUIET_SECONDS)
            except TimeoutError:
                yield None
                continue
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
        for job in jobs:
            worker.cancel(job)


def _put(came: asyncio.Queue[tuple[int, TokenEvent | ApiError]], i: int, written: TokenEvent | ApiError) -> None:
    came.put_nowait((i, written))


def _piece(i: int, text: TextPieces, written: TokenEvent) -> Piece:
    is_token = written.token_id is not None
    new = "" if written.token_id is None else text.push(written.token_id)
    if written.ended and not text.stopped:
        new += text.end()
    finish = "stop" if text.stopped or not is_token else "length" if written.ended else None
    return Piece(i, new, is_token, finish)
