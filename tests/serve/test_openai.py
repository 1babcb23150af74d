"""The routes as OpenAI's own client and plain HTTP see them, against a server in a process of its own."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx2 as httpx
import pytest

from florilegium.cli.main import main
from florilegium.config import SamplingSettings
from florilegium.generation.tuned import Tuned, load
from florilegium.model.base_sampling import base_sampling
from florilegium.seedling import FOLDER
from tests.serve.conftest import Server

PROMPTS = ["The sea", "Once upon a time", "A door", "Hope is", "The moon —", "My friend said"]


def events(response: httpx.Response) -> list[dict]:
    """The events of a stream; [DONE] must be the last, and is left out."""
    lines = [line for line in response.text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines) and lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def test_greedy_texts_are_those_of_generate(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "The sea", "--run", str(server.run), "-n", "1", "--temperature", "0", "--json"]) == 0
    wanted = json.loads(capsys.readouterr().out)
    got = server.openai.completions.create(model="sayings", prompt="The sea", temperature=0)
    assert "The sea" + got.choices[0].text == wanted["text"]
    assert got.choices[0].finish_reason == ("stop" if wanted["finished"] else "length")
    (row,) = server.post("/v1/quotes", prompt="The sea", temperature=0).json()["data"]
    assert row == wanted


@pytest.fixture(scope="module")
def tuned(run: Path) -> Tuned:
    return load(run)


def test_the_same_seed_is_the_same_text_alone_and_among_others(server: Server, tuned: Tuned) -> None:
    """All prompts together, and each alone while the others run, are what the library writes."""
    wanted = [row.text for row in tuned.complete(PROMPTS, _settings(seed=7))]
    together = server.openai.completions.create(model="sayings", prompt=PROMPTS, seed=7, max_tokens=24)
    assert [p + c.text for p, c in zip(PROMPTS, together.choices, strict=True)] == wanted
    first = [tuned.complete([prompt], _settings(seed=7))[0].text for prompt in PROMPTS]

    def one(prompt: str) -> str:
        return (
            prompt
            + server.openai.completions.create(model="sayings", prompt=prompt, seed=7, max_tokens=24).choices[0].text
        )

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(one, PROMPTS)) == first


def _settings(**given: object) -> SamplingSettings:
    return replace(base_sampling(FOLDER), **{"max_new_tokens": 24, **given})  # type: ignore[arg-type]


def test_base_and_tuned_are_models_with_a_parent(server: Server, tuned: Tuned) -> None:
    models = {model.id: model for model in server.openai.models.list()}
    assert list(models) == ["sayings", "seedling"]
    assert models["sayings"].parent == "seedling" and models["seedling"].parent is None  # type: ignore[attr-defined]
    texts = [
        server.openai.completions.create(model=name, prompt="The sea", temperature=0).choices[0].text for name in models
    ]
    base = tuned.generate("The sea", use_base=True, temperature=0)[0].text
    assert texts[0] != texts[1] and "The sea" + texts[1] == base
    assert server.openai.models.retrieve("seedling").id == "seedling"


def test_a_stream_is_the_text_in_pieces(server: Server) -> None:
    body = {"model": "sayings", "prompt": ["The sea", "A door"], "seed": 3, "n": 2, "max_tokens": 20}
    whole = server.post("/v1/completions", **body).json()
    came = events(server.post("/v1/completions", **body, stream=True))
    texts, ends = ["", "", "", ""], [0, 0, 0, 0]
    for event in came:
        (choice,) = event["choices"]
        assert not ends[choice["index"]], "nothing follows the end"
        texts[choice["index"]] += choice["text"]
        ends[choice["index"]] += choice["finish_reason"] is not None
    assert texts == [choice["text"] for choice in whole["choices"]] and ends == [1, 1, 1, 1]
    assert "usage" not in came[-1] and len({event["id"] for event in came}) == 1 and len(came) > 8
    asked = events(server.post("/v1/completions", **body, stream=True, stream_options={"include_usage": True}))
    assert asked[-1]["choices"] == [] and asked[-1]["usage"] == whole["usage"]
    assert all(event["usage"] is None for event in asked[:-1])


def test_chat_fills_the_template(server: Server) -> None:
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "The sea"}]
    answer = server.openai.chat.completions.create(model="sayings", messages=messages, temperature=0)  # type: ignore[arg-type]
    wanted = server.openai.completions.create(model="sayings", prompt="The sea you", temperature=0)
    assert answer.choices[0].message.content == wanted.choices[0].text.strip()
    assert answer.choices[0].message.role == "assistant"
    stream = server.openai.chat.completions.create(model="sayings", messages=messages, temperature=0, stream=True)  # type: ignore[call-overload]
    chunks = [chunk.choices[0] for chunk in stream]
    assert chunks[0].delta.role == "assistant" and chunks[0].delta.content == ""
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].finish_reason == answer.choices[0].finish_reason
    assert "".join(chunk.delta.content or "" for chunk in chunks) == answer.choices[0].message.content


def test_a_stop_string_ends_the_text_before_it(server: Server) -> None:
    plain = server.openai.completions.create(model="sayings", prompt="The sea", temperature=0).choices[0].text
    stop = plain[7:12]
    for stream in (False, True):
        response = server.post("/v1/completions", prompt="The sea", temperature=0, stop=[stop, "never"], stream=stream)
        choices = [c for e in (events(response) if stream else [response.json()]) for c in e["choices"]]
        assert "".join(choice["text"] for choice in choices) == plain[: plain.index(stop)]
        assert choices[-1]["finish_reason"] == "stop"


def test_token_ids_echo_and_an_empty_prompt(server: Server, tuned: Tuned) -> None:
    ids = tuned.base.tokenizer("The sea")["input_ids"]
    by_text = server.post("/v1/completions", prompt="The sea", temperature=0, max_tokens=8, echo=True).json()
    for prompt in (ids, [ids]):
        by_ids = server.post("/v1/completions", prompt=prompt, temperature=0, max_tokens=8, echo=True).json()
        assert by_ids["choices"] == by_text["choices"] and by_ids["usage"]["prompt_tokens"] == len(ids)
    assert by_text["choices"][0]["text"].startswith("The sea ")
    only = server.post("/v1/completions", prompt="The sea", echo=True, max_tokens=0).json()
    assert only["choices"][0]["text"] == "The sea" and only["usage"]["completion_tokens"] == 0
    begun = server.post("/v1/completions", prompt="", seed=5, max_tokens=8).json()["choices"][0]["text"]
    assert begun.split()[0] in ("The", "Once", "A")


def test_quotes_are_those_of_generate(server: Server, tuned: Tuned) -> None:
    got = server.post("/v1/quotes", n=6, seed=11, max_tokens=40).json()
    wanted = tuned.generate("", 6, settings=_settings(seed=11, max_new_tokens=40))
    assert got["data"] == [row.as_row(tuned.template) for row in wanted]
    tag = next(row["tags"][0] for row in got["data"] if row["tags"])
    about = server.post("/v1/quotes", about=[tag], n=1, seed=11, max_tokens=40).json()
    assert tag in about["data"][0]["tags"] and about["drawn"] == 32
    novel = server.post("/v1/quotes", n=3, seed=11, max_tokens=40, novel_only=True).json()["data"]
    assert novel and all(row["novel"] for row in novel)


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("completions", {"model": "nobody"}, 404, "model"),
        ("completions", {"temprature": 1}, 400, "temprature"),
        ("completions", {"temperature": -1}, 400, "temperature"),
        ("completions", {"n": 1000}, 400, "n"),
        ("completions", {"n": 65, "prompt": ["a", "b"]}, 400, "n"),
        ("completions", {"prompt": {"a": 1}}, 400, "prompt"),
        ("completions", {"prompt": []}, 400, "prompt"),
        ("completions", {"prompt": [[]]}, 400, "prompt"),
        ("completions", {"prompt": [5, -1]}, 400, "prompt"),
        ("completions", {"prompt": [5, 10**6]}, 400, "prompt"),
        ("completions", {"prompt": "half \ud800 a pair"}, 400, "prompt"),
        ("completions", {"\ud800": 1}, 400, None),
        ("completions", {"logprobs": 50}, 400, "logprobs"),
        ("completions", {"logprobs": True}, 400, "logprobs"),
        ("tags", {"text": ""}, 400, "text"),
        ("tags", {"text": "x", "tag": ["a"]}, 400, "tag"),
        ("tags", {"text": "x " * 3000, "tags": ["a"]}, 400, "text"),
        ("completions", {"best_of": 2}, 400, "best_of"),
        ("completions", {"suffix": "x"}, 400, "suffix"),
        ("completions", {"max_tokens": 0}, 400, "max_tokens"),
        ("completions", {"stop": ["a"] * 5}, 400, "stop"),
        ("completions", {"stop": ""}, 400, "stop"),
        ("completions", {"seed": 2**70}, 400, "seed"),
        ("completions", {"prompt": "The sea " * 2000}, 400, "prompt"),
        ("completions", {"max_tokens": 5000}, 400, "max_tokens"),
        ("chat/completions", {}, 400, "messages"),
        ("chat/completions", {"messages": []}, 400, "messages"),
        ("chat/completions", {"messages": [{"role": "system", "content": "x"}]}, 400, "messages"),
        ("chat/completions", {"messages": [{"role": "user", "content": ""}]}, 400, "messages"),
        ("chat/completions", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages"),
        ("chat/completions", {"messages": [{"role": "user", "content": "x"}], "tools": [{}]}, 400, "tools"),
        ("quotes", {"about": ["love"], "prompt": "The"}, 400, "about"),
        ("quotes", {"novel_only": True, "temperature": 0}, 400, None),
    ],
)  # fmt: skip
def test_what_is_asked_wrongly_is_400_with_the_field(
    server: Server, path: str, body: dict, status: int, param: str | None
) -> None:
    response = httpx.post(
        f"{server.url}/v1/{path}", content=json.dumps(body), headers={"content-type": "application/json"}, timeout=60
    )
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (status, param), error
    assert set(error) == {"message", "type", "param", "code"}
    cause, _, fix = error["message"].partition(". ")
    assert cause and fix, error  # what is wrong, and what to do


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "says"),
    [
        ("GET", "/nowhere", {}, 404, "no such route. The routes and what they take are in /openapi.json"),
        ("GET", "/v1/completions", {}, 405, "this route does not take that method. It takes POST"),
        ("GET", "/health", {"host": "evil.example"}, 403, "unknown Host header. Use the address"),
        ("GET", "/health", {"origin": "http://evil.example"}, 403, "Start the server with --cors ORIGIN"),
        ("GET", "/v1/models/nobody", {}, 404, "no such model. There are: sayings, seedling"),
    ],
)
def test_what_is_asked_in_another_way_is_told_with_what_to_do(
    server: Server, method: str, path: str, headers: dict, status: int, says: str
) -> None:
    answer = httpx.request(method, f"{server.url}{path}", headers=headers)
    assert answer.status_code == status and says in answer.json()["error"]["message"], answer.text


def test_a_prompt_that_is_too_long_is_told_with_both_numbers(server: Server) -> None:
    message = server.post("/v1/completions", prompt="ab c" * 250_000).json()["error"]["message"]
    assert "1024 tokens" in message and "250001" in message


@pytest.mark.parametrize(
    ("about", "numbers"),
    [
        (["love"] * 1_000_000, "1,000,000 tags"),
        (["love"] * 33, "33 tags"),
        (["ab c" * 250_000], "1,000,000 characters"),
    ],
)
def test_more_to_write_about_than_fits_is_told_with_both_numbers(
    server: Server, about: list[str], numbers: str
) -> None:
    response = server.post("/v1/quotes", about=about, n=1, max_tokens=1)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, "about"), error
    assert numbers in error["message"] and ("32" in error["message"] or "200" in error["message"])
    assert server.gauge("texts_running") == server.gauge("texts_waiting") == 0, "something was drawn"


@pytest.mark.parametrize(
    "body", [b"", b"[", b"[]", b"null", b'{"n": NaN}', b"\xff", b"[" * 100_000, b'{"n":' + b"9" * 5000 + b"}"]
)
def test_a_body_that_is_no_object_is_400(server: Server, body: bytes) -> None:
    response = httpx.post(f"{server.url}/v1/completions", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400 and response.json()["error"]["message"]


def test_health_version_metrics_and_openapi(server: Server) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    assert httpx.get(f"{server.url}/health").json() == {"status": "ok"}
    assert httpx.get(f"{server.url}/version").json()["version"]
    names = {family.name for family in text_string_to_metric_families(httpx.get(f"{server.url}/metrics").text)}
    assert {"florilegium_requests", "florilegium_generated_tokens", "florilegium_texts_running"} <= names
    paths = httpx.get(f"{server.url}/openapi.json").json()["paths"]
    assert {"/v1/completions", "/v1/chat/completions", "/v1/quotes", "/v1/models", "/health"} <= set(paths)
