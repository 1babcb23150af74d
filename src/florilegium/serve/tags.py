"""/v1/tags: how likely each tag is for a text.

    {"text": "Be kind whenever possible.", "tags": ["kindness", "war"]}
    {"data": [{"tag": "kindness", "probability": 0.31}, {"tag": "war", "probability": 0.0002}], ...}

The probability is that of the model's list of tags beginning with this one and no longer word: of the tag's tokens after
the text, times that of what may follow a tag (the next one's comma, or the end). Without `tags` they are those of the
training rows, the most frequent first."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache, partial

from fastapi import APIRouter, Request

from florilegium.config import make_config, read_config
from florilegium.data import read_rows_of
from florilegium.errors import FlorilegiumError, UsageError
from florilegium.generation.token_scores import token_scores
from florilegium.serve.api_errors import bad
from florilegium.serve.events import JsonObject
from florilegium.serve.models import ServedModel
from florilegium.serve.schema import MOST_TAGS, TagsBody
from florilegium.serve.state import state_of
from florilegium.storage.run_directory import RunDirectory, adapter_folder
from florilegium.tokens import end_of_text, text_ids

router = APIRouter()


@dataclass(frozen=True)
class Candidate:
    """Token ids of the text with this tag behind it, end-of-text last; `first` is where the tag begins, `comma` the
    token that goes on to another tag."""

    ids: list[int]
    first: int
    comma: int


@router.post("/v1/tags")
async def tags(body: TagsBody, request: Request) -> JsonObject:
    state = state_of(request)
    model = await state.models.get(body.model)
    wanted = body.tags or await asyncio.to_thread(known_tags, model)
    if not wanted:
        raise bad("the rows of this run are gone, and with them its tags: name some", "tags", "invalid_value")
    candidates = await asyncio.to_thread(candidates_of, model, body.text, wanted)
    longest = max(len(one.ids) for one in candidates)
    if longest > model.capacity:
        message = f"this server's context length is {model.capacity} tokens; text and tag have {longest}"
        raise bad(message, "text", "context_length_exceeded")
    with state.worker.places(1):
        likely = await asyncio.wrap_future(state.worker.call(partial(probabilities, model, candidates)))
    found = sorted(zip(wanted, likely, strict=True), key=lambda pair: -pair[1])
    rows = [{"tag": tag, "probability": value} for tag, value in found[: body.top]]
    return {"object": "list", "model": model.name, "data": rows}


def candidates_of(model: ServedModel, text: str, wanted: list[str]) -> list[Candidate]:
    """Raises ApiError (400) for a text or tag that the template cannot hold."""
    tuned = model.tuned
    template, tokenizer = tuned.template, tuned.base.tokenizer
    column = template.columns[-1]
    try:
        prompt = tuned.prompt_text(text, tags=True)
        if column not in template.list_columns:
            raise UsageError("the template of this model does not end in a list of tags", "")
        quote = {template.columns[0]: text.strip()}
        once = [template.render({**quote, column: [tag]}) for tag in wanted]
        twice = [template.render({**quote, column: [tag, "b" if tag == "a" else "a"]}) for tag in wanted]
    except FlorilegiumError as error:
        raise bad(error.cause, "text", "invalid_value") from None
    (start,) = text_ids(tokenizer, [prompt])
    eos, found = end_of_text(tokenizer), []
    for ids, longer in zip(text_ids(tokenizer, once), text_ids(tokenizer, twice), strict=True):
        found.append(Candidate([*ids, eos], min(len(start), len(ids) - 1), longer[min(len(ids), len(longer) - 1)]))
    return found


def probabilities(model: ServedModel, candidates: list[Candidate]) -> list[float]:
    """In the worker's thread."""
    commas = sorted({one.comma for one in candidates})
    ids = [one.ids for one in candidates]
    scored = token_scores(model.tuned.loaded, ids, watch=commas, adapter=model.adapter)
    out = []
    for one, scores in zip(candidates, scored, strict=True):
        tag, end = sum(scores.logprobs[one.first - 1 : -1]), scores.logprobs[-1]
        comma = scores.watched[-1][commas.index(one.comma)]
        out.append(math.exp(tag) * (math.exp(end) + math.exp(comma)))
    return out


def known_tags(model: ServedModel) -> list[str]:
    """The tags of the run's training rows, the most frequent first; none where the rows are gone."""
    run = RunDirectory(adapter_folder(model.run).parent)
    try:
        return _known(run, run.config.stat().st_mtime_ns)
    except (FlorilegiumError, OSError):
        return []


@lru_cache(8)
def _known(run: RunDirectory, changed: int) -> list[str]:
    rows = read_rows_of(make_config(read_config(run.config), source=str(run.config)))
    column = rows.template.columns[-1]
    counts = Counter(str(tag) for quote in rows.quotes for tag in quote[column])
    return [tag for tag, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MOST_TAGS]]
