"""Log-probabilities of a text's tokens, in the two forms in which OpenAI's clients want them.

They are the model's own (`generation/token_scores.py`), read in one pass once the text is written: the same whatever ran
beside it, and equal to the losses of `florilegium evaluate`. An end-of-text that the model wrote is a token here, with an
empty text; the first token of a prompt has nothing before it, and null."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from florilegium.generation.text_pieces import decoded
from florilegium.generation.token_scores import token_scores
from florilegium.serve.events import JsonObject
from florilegium.serve.models import ServedModel
from florilegium.serve.prompts import Asked
from florilegium.serve.worker import Worker


@dataclass(frozen=True)
class TokenLogprob:
    """A token's text and log-probability, and the most likely at its place; None where nothing stands before it."""

    text: str
    logprob: float | None
    top: list[tuple[str, float]]


async def logprobs_of(
    worker: Worker, model: ServedModel, asked: Asked, written: Sequence[int], top: int, *, prompt: bool
) -> list[TokenLogprob]:
    """Of the tokens that were written, after those of the prompt where `prompt` is wanted too."""
    ids = [*asked.request.token_ids, *written]
    start = 0 if prompt else len(asked.request.token_ids)
    if len(ids) < 2:
        return [TokenLogprob(_text(model, ids[0]), None, [])][start:]
    work = partial(token_scores, model.tuned.loaded, [ids], top=top, adapter=model.adapter)
    (scored,) = await asyncio.wrap_future(worker.call(work))
    first = TokenLogprob(_text(model, ids[0]), None, [])
    rest = [
        TokenLogprob(_text(model, token), logprob, [(_text(model, other), value) for other, value in best])
        for token, logprob, best in zip(ids[1:], scored.logprobs, scored.top, strict=True)
    ]
    return [first, *rest][start:]


def for_completions(tokens: Sequence[TokenLogprob], place: int = 0) -> JsonObject:
    """`text_offset` counts characters of the text that is answered, of which `place` went before."""
    offsets = []
    for token in tokens:
        offsets.append(place)
        place += len(token.text)
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [_top(token) for token in tokens],
        "text_offset": offsets,
    }


def for_chat(tokens: Sequence[TokenLogprob]) -> JsonObject:
    content = [
        {**_entry(token.text, token.logprob), "top_logprobs": [_entry(text, value) for text, value in token.top]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def _top(token: TokenLogprob) -> dict[str, float] | None:
    """The most likely, and the token itself where it is none of them. Of tokens of one text the most likely counts."""
    if token.logprob is None:
        return None
    found: dict[str, float] = {}
    for text, value in [*token.top, (token.text, token.logprob)]:
        found.setdefault(text, value)
    return found


def _entry(text: str, logprob: float | None) -> JsonObject:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


def _text(model: ServedModel, token: int) -> str:
    return decoded(model.tuned.base.tokenizer, [token])
