"""/v1/quotes with `stream`: pieces of each text as they are written, and the text's row, as `generate --json` has it, when it
has ended.

    data: {"object": "quote.chunk", ..., "index": 0, "text": "The sea"}
    data: {"object": "quote.chunk", ..., "index": 0, "text": "", "row": {"quote": ..., "tags": [...], ...}}

What chooses among whole texts (`about`, `novel_only`) has nothing to say before its end, and does not stream."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial

from starlette.responses import Response

from florilegium.serve.api_errors import bad
from florilegium.serve.choices import written
from florilegium.serve.events import ALIVE, EventStream, Frames, JsonObject, TextFrames, frame
from florilegium.serve.models import ServedModel
from florilegium.serve.prompts import Asked, ask, settings_of
from florilegium.serve.schema import QuotesBody
from florilegium.serve.state import ServerState


async def stream_quotes(body: QuotesBody, state: ServerState, model: ServedModel) -> Response:
    """Raises ApiError (400) for what cannot be streamed."""
    if body.about is not None or body.novel_only:
        name = "about" if body.about is not None else "novel_only"
        raise bad(f"{name} chooses among whole texts", "Leave stream out", param="stream", code="invalid_value")
    settings = settings_of(body, model)
    prompt = model.tuned.prompt_text(body.prompt or "")
    asked = await ask(model, [prompt], settings, body.n)
    with contextlib.ExitStack() as held:
        held.enter_context(state.worker.places(len(asked)))
        head: JsonObject = {"object": "quote.chunk", "model": model.name, "seed": settings.seed}
        return EventStream(_frames(head, asked, state, model), held.pop_all())
    raise AssertionError


async def _frames(head: JsonObject, asked: list[Asked], state: ServerState, model: ServedModel) -> Frames:
    texts = [one.prompt for one in asked]
    events = [partial(_event, head, i) for i in range(len(asked))]
    parts = [TextFrames(event) for event in events]
    for event, text in zip(events, texts, strict=True):
        if text:
            yield frame(event(text))
    with written(state.worker, model, asked, (), state.metrics) as coming:
        while coming.running:
            pieces, frames = await coming.more(), []
            for piece in pieces:
                i = piece.choice
                texts[i] += piece.text
                if piece.finish:
                    row = await _row(model, texts[i], piece.finish == "stop")
                    frames.append(frame({**events[i](piece.text), "row": row}))
                elif piece.text:
                    frames.append(parts[i].of(piece.text))
            if frames or not pieces:
                yield "".join(frames) or ALIVE


def _event(head: JsonObject, i: int, text: str) -> JsonObject:
    return {**head, "index": i, "text": text}


async def _row(model: ServedModel, text: str, finished: bool) -> JsonObject:
    row = await asyncio.to_thread(model.tuned.as_generated, text, finished)
    return dict(row.as_row(model.tuned.template))
