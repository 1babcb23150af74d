"""Log-probabilities of a text's tokens, in the two forms in which OpenAI's clients want them.

They are the model's own (`generation/token_scores.py`), read in one pass once the text is written: the same whatever ran
beside it, and equal to the losses of `florilegium evaluate`. An end-of-text that the model wrote is a token here, with an
empty text; the first token of a prompt has nothing before it, and null."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from florilegium.generation.token_scores import token_scores
from florilegium.generation.token_texts import Places, texts_of
from florilegium.serve.events import JsonObject
from florilegium.serve.models import ServedModel
from florilegium.serve.prompts import Asked
from florilegium.serve.worker import Worker


@dataclass(frozen=True)
class Candidate:
    """A token that may stand at a place; its log-probability is None where nothing stands before it."""

    text: str
    utf8: bytes
    logprob: float | None


@dataclass(frozen=True)
class TokenLogprob:
    """The token that stands there, the most likely ones, and where it begins: characters of the text that is answered."""

    token: Candidate
    top: list[Candidate]
    place: int


async def logprobs_of(
    worker: Worker, model: ServedModel, asked: Asked, written: Sequence[int], top: int, start: int, places: Places
) -> list[TokenLogprob]:
    """Of the tokens of prompt and text together, those from number `start` on, which begin at the next `places`."""
    ids = [*asked.request.token_ids, *written]
    scores: list[tuple[float | None, list[tuple[int, float]]]] = [(None, [])]
    if len(ids) > 1:
        work = partial(token_scores, model.tuned.loaded, [ids], top=top, adapter=model.adapter)
        (scored,) = await asyncio.wrap_future(worker.call(work))
        scores += zip(scored.logprobs, scored.top, strict=True)
    known = texts_of(model.tuned.base.tokenizer)

    def candidate(token: int, logprob: float | None) -> Candidate:
        return Candidate(known.text(token), known.bytes(token), logprob)

    return [
        TokenLogprob(candidate(token, logprob), [candidate(*other) for other in best], places.next(token))
        for token, (logprob, best) in zip(ids[start:], scores[start:], strict=True)
    ]


def for_completions(tokens: Sequence[TokenLogprob]) -> JsonObject:
    return {
        "tokens": [one.token.text for one in tokens],
        "token_logprobs": [one.token.logprob for one in tokens],
        "top_logprobs": [_top(one) for one in tokens],
        "text_offset": [one.place for one in tokens],
    }


def for_chat(tokens: Sequence[TokenLogprob]) -> JsonObject:
    content = [{**_entry(one.token), "top_logprobs": [_entry(other) for other in one.top]} for one in tokens]
    return {"content": content, "refusal": None}


def _top(one: TokenLogprob) -> dict[str, float] | None:
    """The most likely, and the token itself where it is none of them. Of tokens of one text the most likely counts."""
    if one.token.logprob is None:
        return None
    found: dict[str, float] = {}
    for other in [*one.top, one.token]:
        assert other.logprob is not None
        found.setdefault(other.text, other.logprob)
    return found


def _entry(one: Candidate) -> JsonObject:
    return {"token": one.text, "logprob": one.logprob, "bytes": list(one.utf8)}
