"""Log-probabilities against the losses of `evaluate`, and /v1/tags against them."""

from __future__ import annotations

import math
from itertools import pairwise

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
        assert len(top) in (2, 3) and max(top.values()) >= value - 1e-6 and top[token] >= value - 1e-6
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
