"""The fields of each route. What is not here is refused by name; what other servers know and this one does not is taken
only where it asks for nothing (`UNSUPPORTED`)."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, StrictInt, model_validator

from florilegium.config import SamplingSettings
from florilegium.serve.api_errors import bad
from florilegium.serve.bounds import MOST_FIELDS, MOST_TEXTS, Bounded, Items, at_most, prompts_of_one_kind

MOST_TAGS, MOST_ABOUT, TAG_LENGTH = 500, 32, 200
MOST_MESSAGES, MOST_PARTS, MOST_NOTES = 2000, 100, 16
# Parameters of OpenAI's that clients send by themselves, and the values of theirs that ask for nothing.
UNSUPPORTED: dict[str, tuple[object, ...]] = {
    "audio": (), "best_of": (1,), "frequency_penalty": (0,), "function_call": ("none",), "functions": ([],),
    "logit_bias": ({},), "logprobs": (False,), "modalities": (["text"],), "parallel_tool_calls": (True, False),
    "presence_penalty": (0,), "response_format": ({"type": "text"},), "store": (False,), "suffix": ("",),
    "tool_choice": ("none", "auto"), "tools": ([],), "top_logprobs": (0,),
}  # fmt: skip
DEFAULTS = SamplingSettings()


def _is_text(text: str) -> str:
    """JSON can hold half of a surrogate pair, which is no character and cannot be tokenized."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError("holds half a surrogate pair, which is no character: send whole ones") from None
    return text


Text = Annotated[str, AfterValidator(_is_text)]
Tokens = Items[Annotated[StrictInt, Field(ge=0)]]
Stop = Annotated[Text, Field(min_length=1, max_length=1000)]


Tag = Annotated[Text, Field(max_length=TAG_LENGTH), at_most(TAG_LENGTH, "characters in a tag")]


class Body(Bounded):
    """What every route that writes takes."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    model: str | None = Field(None, description="a name of /v1/models; without it the first fine-tuned model")
    n: int = Field(1, ge=1, le=MOST_TEXTS)
    seed: int | None = Field(None, ge=0, le=2**63 - 1, description="same seed, same text; without it a new one")
    temperature: float | None = Field(
        None, ge=0, le=100, description=f"0 is greedy (the base's own, else {DEFAULTS.temperature})"
    )
    top_p: float | None = Field(
        None, gt=0, le=1, description=f"nucleus sampling (the base's own, else {DEFAULTS.top_p})"
    )
    top_k: int | None = Field(None, ge=0, le=2**31 - 1, description="0 is all (0)")
    repetition_penalty: float | None = Field(None, gt=0, le=100)
    max_tokens: int | None = Field(None, ge=0, le=100_000, description=f"new tokens ({DEFAULTS.max_new_tokens})")

    @model_validator(mode="before")
    @classmethod
    def _asks_for_nothing_else(cls, values: object) -> object:
        if not isinstance(values, dict) or len(values) > MOST_FIELDS:
            return values
        for name, nothing in UNSUPPORTED.items():
            if name in values and name not in cls.model_fields:
                value = values[name]
                if value is not None and not any(value == one and type(value) in (type(one), float) for one in nothing):
                    cause = f"{name} is not supported by this server"
                    raise bad(cause, "Leave it out", param=name, code="unsupported_parameter")
        return {name: value for name, value in values.items() if name in cls.model_fields or name not in UNSUPPORTED}

    def settings(self, otherwise: SamplingSettings) -> SamplingSettings:
        given = {
            "temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k,
            "repetition_penalty": self.repetition_penalty, "max_new_tokens": None if self.max_tokens is None else max(1, self.max_tokens),
        }  # fmt: skip
        return replace(otherwise, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]  # of several kinds, by name


class StreamOptions(Bounded):
    model_config = ConfigDict(extra="ignore")  # clients send options of servers that have more

    include_usage: bool = False


class StreamedBody(Body):
    stop: Annotated[Stop | Annotated[Items[Stop], Field(max_length=4)] | None, at_most(4, "stop strings", (list,))] = (
        None
    )
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, description="taken, and not looked at")
    metadata: Annotated[dict[str, str] | None, at_most(MOST_NOTES, "notes")] = Field(
        None, description="taken, and not looked at"
    )

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def num_logprobs(self) -> int | None:
        """How many of the most likely tokens are wanted at each place; None for no log-probabilities at all."""
        return None


class CompletionBody(StreamedBody):
    logprobs: Annotated[StrictInt, Field(ge=0, le=20)] | None = Field(
        None, description="log-probabilities of the tokens, and of so many of the most likely at each place"
    )
    prompt: Annotated[Text | Tokens | Items[Text] | Items[Tokens], BeforeValidator(prompts_of_one_kind)] = Field(
        "", description="'' begins as training rows do"
    )
    echo: bool = False

    @property
    def num_logprobs(self) -> int | None:
        return self.logprobs


class TextPart(Bounded):
    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]
    text: Text


class Message(Bounded):
    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Annotated[Text | Items[TextPart] | None, at_most(MOST_PARTS, "parts", (list,))] = None

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class ChatBody(StreamedBody):
    messages: Annotated[Items[Message], at_most(MOST_MESSAGES, "messages")] = Field(
        min_length=1, description="the last user message fills the template"
    )
    max_completion_tokens: int | None = Field(None, ge=1, le=100_000)
    logprobs: bool | None = False
    top_logprobs: int | None = Field(None, ge=0, le=20)

    @model_validator(mode="after")
    def _one_limit(self) -> ChatBody:
        if self.max_completion_tokens is not None:
            self.max_tokens = self.max_completion_tokens
        return self

    @property
    def num_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None


class QuotesBody(Body):
    prompt: Text | None = Field(None, description="how the quotes begin")
    about: Annotated[Items[Tag] | None, at_most(MOST_ABOUT, "tags")] = Field(
        None, min_length=1, max_length=MOST_ABOUT, description="tags that the quotes should have"
    )
    novel_only: bool = Field(False, description="leave out what copies a training row")
    stream: bool | None = Field(False, description="pieces of the texts, and each text's row at its end")


class TagsBody(Bounded):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    model: str | None = Field(None, description="a name of /v1/models; without it the first fine-tuned model")
    text: Text = Field(min_length=1, description="a whole quote, without tags")
    tags: Annotated[Items[Annotated[Tag, Field(min_length=1)]] | None, at_most(MOST_TAGS, "tags")] = Field(
        None,
        min_length=1,
        max_length=MOST_TAGS,
        description="the tags to compare; without it those of the training rows",
    )
    top: int | None = Field(None, ge=1, le=MOST_TAGS, description="only so many, the most likely")
