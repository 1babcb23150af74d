"""A list of texts to write, as OpenAI's clients want the answer: one object, or a stream of events.

/v1/completions and /v1/chat/completions differ in what a choice looks like; `Shape` says how. In both `finish_reason` is
null until a choice ends, and usage comes in a last event without choices, only where it was asked for."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Protocol

from fastapi import Request
from starlette.responses import Response

from florilegium.generation.token_texts import Places
from florilegium.serve.choices import Piece, Texts, written
from florilegium.serve.events import ALIVE, EventStream, Frames, JsonObject, TextFrames, answer, frame
from florilegium.serve.logprobs import TokenLogprob, logprobs_of
from florilegium.serve.models import ServedModel
from florilegium.serve.prompts import Asked
from florilegium.serve.schema import StreamedBody
from florilegium.serve.state import ServerState
from florilegium.serve.streamed_logprobs import LogprobStream
from florilegium.tokens import end_of_text


class Shape(Protocol):
    """How a route names its objects and writes its choices."""

    prefix: str
    whole: str
    chunk: str

    def begin(self, i: int, echo: str) -> JsonObject | None:
        """The choice of a stream's first event, if there is one."""

    def shown(self, i: int, text: str) -> str:
        """More of a streamed choice's text, as it is shown."""

    def part(self, i: int, text: str, finish: str | None) -> JsonObject:
        """The choice of an event, with text that is as it is shown."""

    def choice(self, i: int, text: str, finish: str, tokens: list[TokenLogprob] | None) -> JsonObject: ...
    def logprobs(self, tokens: list[TokenLogprob]) -> JsonObject:
        """As a choice has them."""


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
                return EventStream(self._frames(), held.pop_all())
            return await answer(self._whole(), request)

    def _writing(self) -> contextlib.AbstractContextManager[Texts]:
        state = self.state
        asked = [] if self.body.max_tokens == 0 else self.asked
        return written(state.worker, self.model, asked, self.body.stops, state.metrics)

    async def _whole(self) -> JsonObject:
        texts = [one.prompt if self.echo else "" for one in self.asked]
        finish, tokens = ["length"] * len(texts), 0
        ids: list[list[int]] = [[] for _ in texts]
        with self._writing() as coming:
            while coming.running:
                for piece in await coming.more():
                    texts[piece.choice] += piece.text
                    tokens += piece.token
                    finish[piece.choice] = piece.finish or "length"
                    if piece.token or piece.finish:
                        ids[piece.choice].append(self._eos if piece.token_id is None else piece.token_id)
        scored = [await self._logprobs(i, own, from_prompt=self.echo) for i, own in enumerate(ids)]
        each = enumerate(zip(texts, finish, scored, strict=True))
        choices = [self.shape.choice(i, text, why, logprobs) for i, (text, why, logprobs) in each]
        return {**self.head, "object": self.shape.whole, "choices": choices, "usage": self._usage(tokens)}

    @property
    def _eos(self) -> int:
        return end_of_text(self.model.tuned.base.tokenizer)

    async def _logprobs(
        self, i: int, written: list[int], *, from_prompt: bool = False, sent: int = 0
    ) -> list[TokenLogprob] | None:
        """Of the tokens that were written but for those `sent`, with the prompt's where they come first."""
        wanted, asked = self.body.num_logprobs, self.asked[i]
        if wanted is None:
            return None
        start = 0 if from_prompt else len(asked.request.token_ids) + sent
        return await logprobs_of(self.state.worker, self.model, asked, written, wanted, start, self._places[i])

    @cached_property
    def _places(self) -> list[Places]:
        """Of each choice's tokens in the text that is answered: with `echo` that begins with the prompt, else with an
        opening that was drawn."""
        tokenizer = self.model.tuned.base.tokenizer
        if self.echo:
            return [Places(tokenizer) for _ in self.asked]
        return [Places(tokenizer, one.request.token_ids, len(one.lead)) for one in self.asked]

    async def _frames(self) -> Frames:
        for i, one in enumerate(self.asked):
            first = self.shape.begin(i, one.prompt if self.echo else "")
            if first is not None:
                own = await self._logprobs(i, [], from_prompt=True) if self.echo else None
                yield frame(self._chunk([self._with_logprobs(first, own)]))
        tokens, frames_of = 0, self._text_frames if self.body.num_logprobs is None else self._scored_frames()
        with self._writing() as coming:
            while coming.running:
                pieces = await coming.more()
                tokens += sum(piece.token for piece in pieces)
                # one write for all that came, each an event of its own; they may all be held back
                frames = await frames_of(pieces)
                if frames or not pieces:
                    yield frames or ALIVE
        if self.body.max_tokens == 0:
            for i in range(len(self.asked)):
                yield frame(self._chunk([self.shape.part(i, "", "length")]))
        if self.body.include_usage:
            yield frame({**self._chunk([]), "usage": self._usage(tokens)})

    async def _text_frames(self, pieces: Sequence[Piece]) -> str:
        return "".join([self._frame(piece) for piece in pieces if piece.text or piece.finish])

    def _frame(self, piece: Piece) -> str:
        text = self.shape.shown(piece.choice, piece.text)
        if text and not piece.finish:
            return self._parts[piece.choice].of(text)
        return frame(self._chunk([self.shape.part(piece.choice, text, piece.finish)]))

    @cached_property
    def _parts(self) -> list[TextFrames]:
        """Of each choice, for pieces that are text alone."""
        return [TextFrames(partial(self._text_chunk, i)) for i in range(len(self.asked))]

    def _text_chunk(self, i: int, text: str) -> JsonObject:
        return self._chunk([self.shape.part(i, text, None)])

    def _scored_frames(self) -> Callable[[Sequence[Piece]], Awaitable[str]]:
        """Frames of pieces with the tokens that they are."""

        async def read(i: int, ids: list[int], sent: int) -> list[TokenLogprob]:
            return await self._logprobs(i, ids, sent=sent) or []

        held = LogprobStream(len(self.asked), self._eos, read)

        async def frames_of(pieces: Sequence[Piece]) -> str:
            scored = [await held.push(piece) for piece in pieces]
            return "".join([self._scored_frame(*one) for one in scored if one is not None])

        return frames_of

    def _scored_frame(self, piece: Piece, tokens: list[TokenLogprob]) -> str:
        part = self.shape.part(piece.choice, self.shape.shown(piece.choice, piece.text), piece.finish)
        return frame(self._chunk([self._with_logprobs(part, tokens)]))

    def _with_logprobs(self, choice: JsonObject, tokens: list[TokenLogprob] | None) -> JsonObject:
        return choice if tokens is None else {**choice, "logprobs": self.shape.logprobs(tokens)}

    def _chunk(self, choices: list[JsonObject]) -> JsonObject:
        usage = {"usage": None} if self.body.include_usage else {}
        return {**self.head, "object": self.shape.chunk, "choices": choices, **usage}

    def _usage(self, tokens: int) -> JsonObject:
        """A prompt counts once, however many texts were written from it."""
        prompt = sum(len(one.request.token_ids) for one in self.asked[:: self.body.n])
        return {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}
