"""/v1/tags: how likely each tag is for a text.

    {"text": "Be kind whenever possible.", "tags": ["kindness", "war"]}
    {"data": [{"tag": "kindness", "probability": 0.31}, {"tag": "war", "probability": 0.0002}], ...}

The probability is that of the model's list of tags beginning with this one and no longer word: of the tag's tokens after
the text, times that of what may follow a tag (the next one's comma, or the end). Without `tags` they are those of the
training rows, the most frequent first."""

from __future__ import annotations

import asyncio
import math
from functools import partial

from fastapi import APIRouter, Request

from florilegium.errors import FlorilegiumError, UsageError
from florilegium.generation.known_tags import tags_of_rows
from florilegium.generation.tag_scores import TagContext, tag_context, tag_scorer
from florilegium.serve.api_errors import bad
from florilegium.serve.events import JsonObject
from florilegium.serve.models import ServedModel
from florilegium.serve.schema import MOST_TAGS, TagsBody
from florilegium.serve.state import state_of

router = APIRouter()


@router.post("/v1/tags")
async def tags(body: TagsBody, request: Request) -> JsonObject:
    state = state_of(request)
    model = await state.models.get(body.model)
    wanted = body.tags or await asyncio.to_thread(known_tags, model)
    if not wanted:
        cause = "the rows of this run are gone, and with them its tags"
        raise bad(cause, "Name the tags to choose from", param="tags", code="invalid_value")
    context = await asyncio.to_thread(context_of, model, body.text, wanted)
    longest = len(context.prompt) + max(map(len, context.tails)) + 1
    if longest > model.capacity:
        cause = f"this server's context length is {model.capacity} tokens; text and tag have {longest}"
        raise bad(cause, "Give a shorter text", param="text", code="context_length_exceeded")
    with state.worker.places(1):
        likely = await asyncio.wrap_future(state.worker.call(partial(probabilities, model, context)))
    found = sorted(zip(wanted, likely, strict=True), key=lambda pair: -pair[1])
    rows = [{"tag": tag, "probability": value} for tag, value in found[: body.top]]
    return {"object": "list", "model": model.name, "data": rows}


def context_of(model: ServedModel, text: str, wanted: list[str]) -> TagContext:
    """Raises ApiError (400) for a text or tag that the template cannot hold."""
    tuned = model.tuned
    try:
        tuned.prompt_text(text, tags=True)
        if tuned.template.columns[-1] not in tuned.template.list_columns:
            raise UsageError(
                "the template of this model does not end in a list of tags", "Ask a model that was trained with tags"
            )
        return tag_context(tuned.loaded, tuned.template, {tuned.template.columns[0]: text.strip()}, wanted)
    except FlorilegiumError as error:
        raise bad(error.cause, error.fix, param="text", code="invalid_value") from None


def probabilities(model: ServedModel, context: TagContext) -> list[float]:
    """In the worker's thread."""
    with tag_scorer(model.tuned.loaded, adapter=model.adapter) as scorer:
        return [math.exp(value) for value in scorer.score(context).tags_T]


def known_tags(model: ServedModel) -> list[str]:
    """The tags of the run's training rows, the most frequent first; none where the rows are gone."""
    return tags_of_rows(model.run, MOST_TAGS)
