"""From a request's prompts to what the engine is asked: token ids that exist and fit."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from florilegium.config import SamplingSettings
from florilegium.generation import Request
from florilegium.generation.generate import draw_first_word
from florilegium.model.families import head_weight
from florilegium.serve.api_errors import bad
from florilegium.serve.bounds import MOST_TEXTS
from florilegium.serve.models import ServedModel
from florilegium.serve.schema import Body
from florilegium.tokens import text_ids

AT_ONCE = 2000  # characters or tokens of prompts: half a millisecond, less than it takes to change threads twice
EACH = 100  # of a short text: an opening is drawn, and random numbers are
# One thread: a long prompt must hold up neither the event loop nor the engine.
_tokenizing = ThreadPoolExecutor(1, "florilegium-tokenizer")


@dataclass(frozen=True)
class Asked:
    """One text to write: the request to the engine, the prompt's own text (`echo`), and what stands in front of the
    first token (the opening that was drawn for an empty prompt)."""

    request: Request
    prompt: str
    lead: str = ""

    def echoed(self) -> Asked:
        """The same where the answer begins with the prompt: an opening that was drawn is all the prompt there is."""
        return replace(self, prompt=self.prompt + self.lead, lead="")


def settings_of(body: Body, model: ServedModel) -> SamplingSettings:
    """What the request asks for; of all else, how the model's base is drawn from."""
    seed = secrets.randbelow(2**31) if body.seed is None else body.seed
    return body.settings(replace(model.tuned.base.sampling, seed=seed))


async def ask(
    model: ServedModel, prompts: Sequence[str | Sequence[int]], settings: SamplingSettings, n: int
) -> list[Asked]:
    """`n` texts for each prompt, numbered as `florilegium generate` numbers them. Raises ApiError (400) for too many,
    for token ids that are none, and for a prompt that is too long."""
    if len(prompts) * n > MOST_TEXTS:
        cause = f"{len(prompts)} prompts times n = {n} is more than {MOST_TEXTS} texts"
        raise bad(cause, "Ask for them in several requests", param="n", code="too_many_texts")
    texts = [prompt for prompt in prompts for _ in range(n)]
    if sum(max(EACH, len(prompt)) for prompt in texts) <= AT_ONCE:
        return asked_of(model, texts, settings)
    return await asyncio.get_running_loop().run_in_executor(_tokenizing, asked_of, model, texts, settings)


def asked_of(
    model: ServedModel,
    prompts: Sequence[str | Sequence[int]],
    settings: SamplingSettings,
    first_row: int = 0,
) -> list[Asked]:
    """One text for each prompt; see `ask`."""
    base, asked = model.tuned.base, []
    vocabulary = len(head_weight(base.model))
    ids_of: dict[str, list[int]] = {}
    for number, prompt in enumerate(prompts, first_row):
        if isinstance(prompt, str):
            lead = "" if prompt else draw_first_word(model.tuned.first_words, settings, number)
            text = prompt or lead
            if text not in ids_of:
                (ids_of[text],) = text_ids(base.tokenizer, [text])
            ids: Sequence[int] = ids_of[text]
        else:
            ids, lead = prompt, ""
            if max(ids, default=0) >= vocabulary:
                cause = f"prompt holds a token id that the vocabulary of {vocabulary:,} does not have"
                raise bad(
                    cause, "Send the text, or ids of this model's tokenizer", param="prompt", code="invalid_value"
                )
        _check_length(ids, settings, model.capacity)
        shown = prompt if isinstance(prompt, str) else str(base.tokenizer.decode(list(ids)))
        asked.append(Asked(Request(ids, number, settings, 0 if model.adapter else None), shown, lead))
    return asked


def _check_length(ids: Sequence[int], settings: SamplingSettings, capacity: int) -> None:
    if not ids:
        raise bad("prompt is empty", "Give it at least one token", param="prompt", code="invalid_value")
    if len(ids) + settings.max_new_tokens > capacity:
        cause = (
            f"this server's context length is {capacity} tokens; the prompt has {len(ids)}, and "
            f"{settings.max_new_tokens} more were asked for (max_tokens)"
        )
        param = "prompt" if len(ids) >= capacity else "max_tokens"
        raise bad(
            cause,
            f"Give a shorter {param}" if param == "prompt" else "Lower max_tokens, or give a shorter prompt",
            param=param,
            code="context_length_exceeded",
        )
