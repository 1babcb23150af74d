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

from florilegium.serve.choices import Piece, pieces
from florilegium.serve.events import Events, EventStream, JsonObject, answer
from florilegium.serve.logprobs import TokenLogprob, logprobs_of
from florilegium.serve.models import ServedModel
from florilegium.serve.prompts import Asked
from florilegium.serve.schema import StreamedBody
from florilegium.serve.state import ServerState
from florilegium.serve.streamed_logprobs import with_logprobs
from florilegium.tokens import end_of_text

ScoredPiece = tuple[Piece | None, list[TokenLogprob] | None]


class Shape(Protocol):
    """How a route names its objects and writes its choices."""

    prefix: str
    whole: str
    chunk: str

    def begin(self, i: int, echo: str) -> JsonObject | None:
        """The choice of a stream's first event, if there is one."""

    def part(self, piece: Piece) -> JsonObject: ...
    def choice(self, i: int, text: str, finish: str, tokens: list[TokenLogprob] | None) -> JsonObject: ...
    def logprobs(self, tokens: list[TokenLogprob], place: int) -> JsonObject:
        """As a choice has them; `place` characters went before."""


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
        scored = [await self._logprobs(i, ids, prompt=self.echo) for i, ids in enumerate(written)]
        each = enumerate(zip(texts, finish, scored, strict=True))
        choices = [self.shape.choice(i, text, why, logprobs) for i, (text, why, logprobs) in each]
        return {**self.head, "object": self.shape.whole, "choices": choices, "usage": self._usage(tokens)}

    async def _logprobs(self, i: int, written: list[int], *, prompt: bool) -> list[TokenLogprob] | None:
        wanted = self.body.num_logprobs
        if wanted is None:
            return None
        return await logprobs_of(self.state.worker, self.model, self.asked[i], written, wanted, prompt=prompt)

    async def _events(self) -> Events:
        tokens = 0
        places = [0 for _ in self.asked]
        for i, one in enumerate(self.asked):
            first = self.shape.begin(i, one.prompt if self.echo else "")
            if first is not None:
                own = await self._logprobs(i, [], prompt=True) if self.echo else None
                yield self._chunk([self._with_logprobs(first, own, places, i)])
        async with self._pieces() as coming:
            async for piece, own in self._scored(coming):
                if piece is None:
                    yield None
                    continue
                tokens += piece.token if own is None else len(own) - (piece.token_id is None)
                if piece.text or piece.finish or own:
                    yield self._chunk([self._with_logprobs(self.shape.part(piece), own, places, piece.choice)])
        if self.body.max_tokens == 0:
            for i in range(len(self.asked)):
                yield self._chunk([self.shape.part(Piece(i, "", finish="length"))])
        if self.body.include_usage:
            yield {**self._chunk([]), "usage": self._usage(tokens)}

    async def _scored(self, coming: AsyncGenerator[Piece | None]) -> AsyncGenerator[ScoredPiece]:
        """Each piece with the tokens that it is, where they are wanted."""
        if self.body.num_logprobs is None:
            async for piece in coming:
                yield piece, None
            return

        async def read(i: int, ids: list[int]) -> list[TokenLogprob]:
            return await self._logprobs(i, ids, prompt=False) or []

        eos = end_of_text(self.model.tuned.base.tokenizer)
        async for scored in with_logprobs(coming, len(self.asked), eos, read):
            yield scored or (None, None)

    def _with_logprobs(
        self, choice: JsonObject, tokens: list[TokenLogprob] | None, places: list[int], i: int
    ) -> JsonObject:
        if tokens is None:
            return choice
        found = self.shape.logprobs(tokens, places[i])
        places[i] += sum(len(token.text) for token in tokens)
        return {**choice, "logprobs": found}

    def _chunk(self, choices: list[JsonObject]) -> JsonObject:
        usage = {"usage": None} if self.body.include_usage else {}
        return {**self.head, "object": self.shape.chunk, "choices": choices, **usage}

    def _usage(self, tokens: int) -> JsonObject:
        """A prompt counts once, however many texts were written from it."""
        prompt = sum(len(one.request.token_ids) for one in self.asked[:: self.body.n])
        return {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}
