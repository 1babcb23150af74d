"""A list of texts to write, as OpenAI's clients want the answer: one object, or a stream of events.

/v1/completions and /v1/chat/completions differ in what a choice looks like; `Shape` says how. In both `finish_reason` is
null until a choice ends, and usage comes in a last event without choices, only where it was asked for."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from fastapi import Request
from starlette.responses import Response

from florilegium.serve.api_errors import bad
from florilegium.serve.choices import Piece, pieces
from florilegium.serve.events import Events, EventStream, JsonObject, answer
from florilegium.serve.logprobs import TokenLogprob, logprobs_of
from florilegium.serve.models import ServedModel
from florilegium.serve.prompts import Asked
from florilegium.serve.schema import StreamedBody
from florilegium.serve.state import ServerState
from florilegium.tokens import end_of_text


class Shape(Protocol):
    """How a route names its objects and writes its choices."""

    prefix: str
    whole: str
    chunk: str

    def begin(self, i: int, echo: str) -> JsonObject | None:
        """The choice of a stream's first event, if there is one."""

    def part(self, piece: Piece) -> JsonObject: ...
    def choice(self, i: int, text: str, finish: str, tokens: list[TokenLogprob] | None) -> JsonObject: ...


@dataclass(frozen=True)
class Answering:
    """One request being answered."""

    state: ServerState
    model: ServedModel
    body: StreamedBody
    shape: Shape
    asked: Sequence[Asked]
    echo: bool = False
    head: JsonObject = field(default_factory=dict)

    async def respond(self, request: Request) -> Response:
        head = {"id": f"{self.shape.prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": self.model.name}
        self.head.update(head)
        if self.body.stream and self.body.num_logprobs is not None:
            raise bad("logprobs come with whole answers: leave stream out", "logprobs", "invalid_value")
        with contextlib.ExitStack() as held:
            held.enter_context(self.state.worker.places(len(self.asked)))
            if self.body.stream:
                return EventStream(self._events(), held.pop_all())
            return await answer(self._whole(), request)

    def _pieces(self) -> contextlib.aclosing[AsyncGenerator[Piece | None]]:
        state = self.state
        asked = [] if self.body.max_tokens == 0 else self.asked
        return contextlib.aclosing(pieces(state.worker, self.model, asked, self.body.stops, state.metrics))

    async def _whole(self) -> JsonObject:
        texts = [one.prompt if self.echo else "" for one in self.asked]
        finish, tokens = ["length"] * len(texts), 0
        written: list[list[int]] = [[] for _ in texts]
        eos = end_of_text(self.model.tuned.base.tokenizer)
        async with self._pieces() as coming:
            async for piece in coming:
                if piece is not None:
                    texts[piece.choice] += piece.text
                    tokens += piece.token
                    finish[piece.choice] = piece.finish or "length"
                    if piece.token or piece.finish:
                        written[piece.choice].append(eos if piece.token_id is None else piece.token_id)
        scored = [await self._logprobs(i, ids) for i, ids in enumerate(written)]
        each = enumerate(zip(texts, finish, scored, strict=True))
        choices = [self.shape.choice(i, text, why, logprobs) for i, (text, why, logprobs) in each]
        return {**self.head, "object": self.shape.whole, "choices": choices, "usage": self._usage(tokens)}

    async def _logprobs(self, i: int, written: list[int]) -> list[TokenLogprob] | None:
        wanted = self.body.num_logprobs
        if wanted is None:
            return None
        return await logprobs_of(self.state.worker, self.model, self.asked[i], written, wanted, prompt=self.echo)

    async def _events(self) -> Events:
        tokens = 0
        for i, one in enumerate(self.asked):
            first = self.shape.begin(i, one.prompt if self.echo else "")
            if first is not None:
                yield self._chunk([first])
        async with self._pieces() as coming:
            async for piece in coming:
                if piece is None:
                    yield None
                    continue
                tokens += piece.token
                if piece.text or piece.finish:
                    yield self._chunk([self.shape.part(piece)])
        if self.body.max_tokens == 0:
            for i in range(len(self.asked)):
                yield self._chunk([self.shape.part(Piece(i, "", finish="length"))])
        if self.body.include_usage:
            yield {**self._chunk([]), "usage": self._usage(tokens)}

    def _chunk(self, choices: list[JsonObject]) -> JsonObject:
        usage = {"usage": None} if self.body.include_usage else {}
        return {**self.head, "object": self.shape.chunk, "choices": choices, **usage}

    def _usage(self, tokens: int) -> JsonObject:
        """A prompt counts once, however many texts were written from it."""
        prompt = sum(len(one.request.token_ids) for one in self.asked[:: self.body.n])
        return {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}
