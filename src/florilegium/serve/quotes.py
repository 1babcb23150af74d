"""/v1/quotes: quotes with their tags, as `florilegium generate --json` writes them.

The library's own `Tuned` draws, chooses and compares; only its `complete` is another one here, which asks the thread
that owns the model instead of running it. So it runs in a thread of its own, and the event loop stays free."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import Response

from florilegium.config import SamplingSettings
from florilegium.generation import Generated, TokenEvent, collect
from florilegium.generation import Request as EngineRequest
from florilegium.generation.telling import Tell
from florilegium.generation.text_pieces import decoded
from florilegium.generation.tuned import Tuned
from florilegium.serve.api_errors import ApiError, bad
from florilegium.serve.events import JsonObject, answer
from florilegium.serve.hosted import Job, failed
from florilegium.serve.models import ServedModel
from florilegium.serve.prompts import asked_of, settings_of
from florilegium.serve.quote_stream import stream_quotes
from florilegium.serve.schema import QuotesBody
from florilegium.serve.state import ServerState, state_of

router = APIRouter()
_drawing = ThreadPoolExecutor(32, "florilegium-quotes")


class Gone(Exception):
    """Nobody waits for the quotes any more."""


@dataclass
class ServedTuned(Tuned):
    """A `Tuned` whose texts the worker writes. `leave` from another thread ends what it does."""

    state: ServerState | None = None
    served: ServedModel | None = None
    jobs: list[Job] = field(default_factory=list)
    heard: queue.SimpleQueue[tuple[int, TokenEvent | ApiError] | None] = field(default_factory=queue.SimpleQueue)
    left: bool = False

    def leave(self) -> None:
        self.left = True
        self.heard.put(None)

    def complete(
        self,
        texts: Sequence[str],
        settings: SamplingSettings,
        first_row: int = 0,
        with_base: bool = False,
        tell: Tell | None = None,
    ) -> list[Generated]:
        assert self.state is not None and self.served is not None
        asked = asked_of(self.served, texts, settings, first_row)
        written = self._write([one.request for one in asked])
        rows = []
        for one, done in zip(asked, collect(written, len(asked)), strict=True):
            text = decoded(self.base.tokenizer, [*one.request.token_ids, *done.token_ids])
            rows.append(self.as_generated(text, done.finished))
        return rows

    def _write(self, requests: Sequence[EngineRequest]) -> list[TokenEvent]:
        assert self.state is not None
        worker, clock = self.state.worker, self.state.metrics.start(sum(len(r.token_ids) for r in requests))
        jobs = [Job(self.loaded, r, partial(self._hear, i)) for i, r in enumerate(requests)]
        written: list[TokenEvent] = []
        running = len(jobs)
        try:
            for job in jobs:
                worker.submit(job)
            while running:  # not `job.done`: the worker knows of the last token before it is heard here
                event = self.heard.get()
                if event is None or self.left:
                    raise Gone
                if isinstance(event[1], ApiError) or event[1].broken:
                    raise event[1] if isinstance(event[1], ApiError) else failed()
                clock.tokens()
                running -= event[1].ended
                written.append(replace(event[1], request=event[0]))
        finally:
            for job in jobs:
                worker.cancel(job)
        return written

    def _hear(self, i: int, event: TokenEvent | ApiError) -> None:
        self.heard.put((i, event))


@router.post("/v1/quotes")
async def quotes(body: QuotesBody, request: Request) -> Response:
    state = state_of(request)
    served = await state.models.get(body.model)
    if body.about is not None and body.prompt is not None:
        fix = "Leave prompt or about out"
        raise bad("about cannot be combined with prompt", fix, param="about", code="invalid_value")
    if body.max_tokens == 0:
        raise bad("max_tokens is 0", "It takes 1 or more", param="max_tokens", code="invalid_value")
    if body.stream:
        return await stream_quotes(body, state, served)
    own = {one.name: getattr(served.tuned, one.name) for one in fields(Tuned)}
    drawing = ServedTuned(**own, state=state, served=served)
    with state.worker.places(body.n):
        return await answer(_draw(drawing, body, settings_of(body, served)), request)


async def _draw(drawing: ServedTuned, body: QuotesBody, settings: SamplingSettings) -> JsonObject:
    try:
        return await asyncio.get_running_loop().run_in_executor(_drawing, _rows, drawing, body, settings)
    except asyncio.CancelledError:
        drawing.leave()
        raise


def _rows(drawing: ServedTuned, body: QuotesBody, settings: SamplingSettings) -> JsonObject:
    found: JsonObject = {
        "object": "list",
        "model": drawing.served.name if drawing.served else "",
        "seed": settings.seed,
    }
    if body.about is not None:
        result = drawing.about(body.about, body.n, settings=settings)
        rows, found["drawn"] = result.rows, result.drawn
        found["frequent_tags"] = list(result.frequent_tags)
    else:
        rows = drawing.generate(body.prompt or "", body.n, settings=settings, novel_only=body.novel_only)
    return {**found, "data": [row.as_row(drawing.template) for row in rows]}
