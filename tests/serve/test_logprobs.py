"""Log-probabilities against the losses of `evaluate`, and /v1/tags against them."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest

from florilegium.evaluation.losses import example_losses
from florilegium.generation.token_scores import token_scores
from florilegium.generation.tuned import Tuned, load
from florilegium.tokens import Example, end_of_text, text_ids
from tests.serve.conftest import Server

TEXTS = ["The sea remembers every ship and tells none of them.", "Be kind — whenever “possible”.", "A"]


@pytest.fixture(scope="module")
def tuned(server: Server) -> Tuned:
    assert server.run is not None
    return load(server.run)


def losses(tuned: Tuned, ids: list[int]) -> list[float]:
    (found,) = example_losses(tuned.loaded, [Example(ids, [True] * len(ids))])
    return [float(value) for value in found]


@pytest.mark.parametrize("text", TEXTS)
def test_echo_gives_the_losses_of_evaluate(server: Server, tuned: Tuned, text: str) -> None:
    ids = text_ids(tuned.base.tokenizer, [text])[0]
    echo = server.openai.completions.create(model="sayings", prompt=text, max_tokens=0, echo=True, logprobs=2)
    logprobs = echo.choices[0].logprobs
    assert logprobs and logprobs.token_logprobs and logprobs.tokens and logprobs.top_logprobs and logprobs.text_offset
    assert echo.choices[0].text == text
    assert "".join(logprobs.tokens) == text or not text.isascii()  # half a character is no text
    assert logprobs.token_logprobs[0] is None and len(logprobs.token_logprobs) == len(ids)
    assert [-value for value in logprobs.token_logprobs[1:]] == pytest.approx(
        losses(tuned, ids) if ids[1:] else [], abs=1e-3
    )
    for token, value, top in zip(
        logprobs.tokens[1:], logprobs.token_logprobs[1:], logprobs.top_logprobs[1:], strict=True
    ):
        assert len(top) in (2, 3) or "\ufffd" in top  # tokens of half a character look alike
        assert max(top.values()) >= value - 1e-6 and top[token] >= value - 1e-6
    assert all(a <= b for a, b in pairwise(logprobs.text_offset))


def test_a_greedy_text_is_the_likeliest_at_every_place(server: Server, tuned: Tuned) -> None:
    client = server.openai
    got = client.completions.create(
        model="sayings", prompt="The sea", temperature=0, max_tokens=40, logprobs=1, echo=True
    )
    choice, usage = got.choices[0], got.usage
    assert choice.logprobs and choice.logprobs.token_logprobs and choice.logprobs.top_logprobs and usage
    ended = choice.finish_reason == "stop"
    assert len(choice.logprobs.token_logprobs) == usage.total_tokens + ended  # the end of the text is a token too
    for value, top in list(zip(choice.logprobs.token_logprobs, choice.logprobs.top_logprobs, strict=True))[
        usage.prompt_tokens :
    ]:
        assert value == max(top.values())
    chat = client.chat.completions.create(
        model="sayings",
        messages=[{"role": "user", "content": "Be kind."}],
        temperature=0,
        logprobs=True,
        top_logprobs=3,
    )
    content = chat.choices[0].logprobs.content if chat.choices[0].logprobs else None
    assert content and all(len(one.top_logprobs) == 3 and one.logprob == one.top_logprobs[0].logprob for one in content)
    base = client.completions.create(model="seedling", prompt="The sea", max_tokens=0, echo=True, logprobs=0)
    scored = token_scores(tuned.loaded, text_ids(tuned.base.tokenizer, ["The sea"]), adapter=False)[0]
    assert base.choices[0].logprobs and base.choices[0].logprobs.token_logprobs
    assert base.choices[0].logprobs.token_logprobs[1:] == pytest.approx(scored.logprobs, abs=1e-5)


@pytest.mark.parametrize("stop", [None, " the"])
def test_a_stream_has_the_logprobs_of_the_whole_answer(server: Server, stop: str | None) -> None:
    """Two texts of two prompts at once, with their prompts, by OpenAI's client: of completions and of chats."""
    client, asked = server.openai, {"model": "sayings", "seed": 4, "max_tokens": 20, "stop": stop, "n": 2}
    prompts = {"prompt": ["The sea — “wide”", "Be"], "logprobs": 2, "echo": True}
    whole = client.completions.create(**asked, **prompts)  # type: ignore[call-overload]
    events = list(client.completions.create(**asked, **prompts, stream=True, stream_options={"include_usage": True}))  # type: ignore[call-overload]
    assert events[-1].choices == [] and events[-1].usage == whole.usage
    for choice in whole.choices:
        parts = [event.choices[0] for event in events[:-1] if event.choices[0].index == choice.index]
        assert "".join(part.text for part in parts) == choice.text
        assert [part.finish_reason for part in parts] == [None] * (len(parts) - 1) + [choice.finish_reason]
        for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
            got = [value for part in parts for value in getattr(part.logprobs, name)]
            assert got == _rounded(getattr(choice.logprobs, name)), name
        # the prompt, then one token, two, four, eight ...
        sizes = [len(part.logprobs.tokens) for part in parts[1:]]
        assert sizes[:-1] == [1, 2, 4, 8, 8][: len(sizes) - 1] and sizes[-1] <= 8
    said = {"messages": [{"role": "user", "content": "Be kind."}], "logprobs": True, "top_logprobs": 3}
    chat = client.chat.completions.create(**asked, **said)  # type: ignore[call-overload]
    pieces = list(client.chat.completions.create(**asked, **said, stream=True))  # type: ignore[call-overload]
    for choice in chat.choices:
        parts = [event.choices[0] for event in pieces if event.choices[0].index == choice.index]
        assert parts[0].delta.role == "assistant" and parts[0].logprobs is None
        assert "".join(part.delta.content or "" for part in parts) == choice.message.content
        got = [token.model_dump() for part in parts[1:] for token in part.logprobs.content]
        assert got == _rounded([token.model_dump() for token in choice.logprobs.content])


def test_a_stream_of_no_tokens_has_the_logprobs_of_its_prompt(server: Server) -> None:
    whole, stream = (
        server.openai.completions.create(
            model="sayings", prompt="The sea", max_tokens=0, echo=True, logprobs=1, stream=stream
        )
        for stream in (False, True)
    )
    first, last = (event.choices[0] for event in stream)
    assert first.text == "The sea" and last.finish_reason == "length"
    assert first.logprobs.tokens == whole.choices[0].logprobs.tokens
    assert first.logprobs.token_logprobs == _rounded(whole.choices[0].logprobs.token_logprobs)


@pytest.mark.parametrize("echo", [False, True], ids=["alone", "echo"])
@pytest.mark.parametrize("prompt", ["", "The sea — “wide”", [300, 301]], ids=["drawn", "text", "ids"])
def test_tokens_stand_in_the_text_where_text_offset_says(server: Server, prompt: Any, echo: bool) -> None:
    """Whole and streamed, also where the opening was drawn, and where a character is several tokens."""
    asked = {"prompt": prompt, "echo": echo, "logprobs": 1, "seed": 5, "max_tokens": 12, "n": 2}
    whole = server.openai.completions.create(model="sayings", **asked)
    stream = list(server.openai.completions.create(model="sayings", **asked, stream=True))
    for choice in whole.choices:
        parts = [event.choices[0] for event in stream if event.choices[0].index == choice.index]
        assert "".join(part.text for part in parts) == choice.text
        offsets = [place for part in parts for place in part.logprobs.text_offset]
        assert choice.logprobs and offsets == choice.logprobs.text_offset
        tokens = choice.logprobs.tokens or []
        assert [token for part in parts for token in part.logprobs.tokens] == tokens
        assert offsets[0] == (0 if echo or prompt else len(choice.text.split()[0])), choice
        for token, place in zip(tokens, offsets, strict=True):
            assert "\ufffd" in token or choice.text[place : place + len(token)] == token, (token, place, choice.text)


def test_an_opening_that_was_drawn_is_a_prompt_to_echo(server: Server) -> None:
    """With no text after it, too: its tokens, their log-probabilities and its text agree, whole and streamed."""
    asked = {"prompt": "", "echo": True, "logprobs": 1, "seed": 5, "max_tokens": 0}
    whole = server.openai.completions.create(model="sayings", **asked).choices[0]
    first, last = (
        event.choices[0] for event in server.openai.completions.create(model="sayings", **asked, stream=True)
    )
    assert whole.text in ("The", "Once", "A") and whole.logprobs and "".join(whole.logprobs.tokens or []) == whole.text
    assert (first.text, last.text, last.finish_reason) == (whole.text, "", "length")
    assert first.logprobs.tokens == whole.logprobs.tokens and first.logprobs.token_logprobs[0] is None
    plain = {**asked, "logprobs": None}
    events = server.openai.completions.create(model="sayings", **plain, stream=True)
    assert "".join(event.choices[0].text for event in events) == whole.text


def _rounded(value: Any) -> Any:
    """A pass over more tokens at once may differ in the last digits."""
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return pytest.approx(value, abs=1e-4) if isinstance(value, float) else value


def test_tags_have_the_probability_of_their_tokens_and_an_end(server: Server, tuned: Tuned) -> None:
    wanted = ["kindness", "war", "kind"]
    answer = server.post("/v1/tags", text="Be kind whenever possible.", tags=wanted, model="sayings").json()["data"]
    got = {row["tag"]: row["probability"] for row in answer}
    assert [row["probability"] for row in answer] == sorted(got.values(), reverse=True) and set(got) == set(wanted)
    tokenizer, eos = tuned.base.tokenizer, end_of_text(tuned.base.tokenizer)
    prompt = text_ids(tokenizer, [tuned.prompt_text("Be kind whenever possible.", tags=True)])[0]
    for tag in wanted:
        quotes = [{"quote": "Be kind whenever possible.", "tags": tags} for tags in ([tag], [tag, "another"])]
        ids, longer = text_ids(tokenizer, [tuned.template.render(quote) for quote in quotes])
        assert longer[: len(ids)] == ids and ids[: len(prompt)] == prompt
        own = losses(tuned, [*ids, eos])[len(prompt) - 1 :]
        comma = losses(tuned, longer)[len(ids) - 1]
        assert got[tag] == pytest.approx(math.exp(-sum(own[:-1])) * (math.exp(-own[-1]) + math.exp(-comma)), rel=1e-3)


def test_without_names_the_tags_are_those_of_the_rows_or_it_is_told(server: Server) -> None:
    answer = server.post("/v1/tags", text="Be kind.", top=3)
    assert answer.status_code == 200, answer.text
    rows = answer.json()["data"]
    assert len(rows) == 3 and all(0 < row["probability"] < 1 for row in rows)
