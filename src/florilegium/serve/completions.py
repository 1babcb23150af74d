"""/v1/completions and /v1/chat/completions.

A completion goes on from the prompt as it is. A chat fills the template that the adapter was trained on with the last user
message, and answers with the other columns: a base model that was tuned on a template knows no other chat. System messages
and earlier turns choose nothing."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter, Request
from starlette.responses import Response

from florilegium.data import Template
from florilegium.data.quote import Value, split_items
from florilegium.errors import DataError
from florilegium.serve.answers import Answering
from florilegium.serve.api_errors import bad
from florilegium.serve.events import JsonObject
from florilegium.serve.logprobs import TokenLogprob, for_chat, for_completions
from florilegium.serve.prompts import ask, settings_of
from florilegium.serve.schema import ChatBody, CompletionBody
from florilegium.serve.state import state_of

router = APIRouter()


class TextShape:
    prefix, whole, chunk = "cmpl", "text_completion", "text_completion"

    def begin(self, i: int, echo: str) -> JsonObject | None:
        return self._choice(i, echo, None) if echo else None

    def shown(self, i: int, text: str) -> str:
        return text

    def part(self, i: int, text: str, finish: str | None) -> JsonObject:
        return self._choice(i, text, finish)

    def choice(self, i: int, text: str, finish: str, tokens: list[TokenLogprob] | None) -> JsonObject:
        return {**self._choice(i, text, finish), "logprobs": None if tokens is None else self.logprobs(tokens)}

    def logprobs(self, tokens: list[TokenLogprob]) -> JsonObject:
        return for_completions(tokens)

    def _choice(self, i: int, text: str, finish: str | None) -> JsonObject:
        return {"index": i, "text": text, "logprobs": None, "finish_reason": finish}


class ChatShape:
    """The role comes first, with empty content; the blank between template and answer is no part of the answer."""

    prefix, whole, chunk = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self) -> None:
        self.has_text: set[int] = set()

    def begin(self, i: int, echo: str) -> JsonObject | None:
        return {"index": i, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}

    def shown(self, i: int, text: str) -> str:
        text = text if i in self.has_text else text.lstrip()
        if text:
            self.has_text.add(i)
        return text

    def part(self, i: int, text: str, finish: str | None) -> JsonObject:
        delta = {"content": text} if text else {}
        return {"index": i, "delta": delta, "logprobs": None, "finish_reason": finish}

    def choice(self, i: int, text: str, finish: str, tokens: list[TokenLogprob] | None) -> JsonObject:
        logprobs = None if tokens is None else self.logprobs(tokens)
        message = {"role": "assistant", "content": text.lstrip(), "refusal": None}
        return {"index": i, "message": message, "logprobs": logprobs, "finish_reason": finish}

    def logprobs(self, tokens: list[TokenLogprob]) -> JsonObject:
        return for_chat(tokens)


@router.post("/v1/completions")
async def completions(body: CompletionBody, request: Request) -> Response:
    state = state_of(request)
    model = await state.models.get(body.model)
    if body.max_tokens == 0 and not body.echo:
        fix = "It takes 1 or more, or 0 with echo"
        raise bad("max_tokens is 0", fix, param="max_tokens", code="invalid_value")
    asked = await ask(model, prompts_of(body), settings_of(body, model), body.n)
    asked = [one.echoed() for one in asked] if body.echo else asked
    return await Answering(state, model, body, TextShape(), asked, body.echo).respond(request)


def prompts_of(body: CompletionBody) -> Sequence[str | Sequence[int]]:
    """One text, or one text's tokens, is a list of one."""
    prompt = body.prompt
    if isinstance(prompt, str):
        return [prompt]
    if not prompt:
        fix = "Give it a text; an empty one begins as training rows do"
        raise bad("prompt is an empty list", fix, param="prompt", code="invalid_value")
    return [prompt] if isinstance(prompt[0], int) else prompt


@router.post("/v1/chat/completions")
async def chat_completions(body: ChatBody, request: Request) -> Response:
    state = state_of(request)
    model = await state.models.get(body.model)
    if body.max_tokens == 0:
        raise bad("max_tokens is 0", "It takes 1 or more", param="max_tokens", code="invalid_value")
    said = [message.text for message in body.messages if message.role == "user"]
    if not said:
        fix = "Add one: the last of them is what is answered"
        raise bad("messages holds no message of the role 'user'", fix, param="messages", code="invalid_value")
    try:
        prompt = filled(model.tuned.template, said[-1])
    except DataError as error:
        raise bad(error.cause, error.fix, param="messages", code="invalid_value") from None
    asked = await ask(model, [prompt], settings_of(body, model), body.n)
    return await Answering(state, model, body, ChatShape(), asked).respond(request)


def filled(template: Template, message: str) -> str:
    """The prompt in which `message` is the template's first column; with no other column the model goes on from it."""
    first = template.columns[0]
    value: Value = split_items(message) if first in template.list_columns else message
    return template.prompt({first: value}, open=len(template.columns) == 1)
