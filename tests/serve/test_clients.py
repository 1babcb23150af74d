"""Clients that people have, each against the running server; those that are not installed are skipped. By hand:
pip install langchain-openai litellm llm lm-eval schemathesis."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import httpx2 as httpx
import pytest
from openai import AsyncOpenAI

from tests.serve.conftest import Server


def test_openai_async_many_at_once_and_streamed(server: Server) -> None:
    async def ask() -> tuple[list[str], list[str], int]:
        client = AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60)
        one = {"model": "sayings", "prompt": "The sea", "max_tokens": 12}
        wholes = await asyncio.gather(*[client.completions.create(**one, seed=i) for i in range(8)])  # type: ignore[call-overload]
        pieces, events = "", 0
        stream = await client.completions.create(**one, seed=3, stream=True)  # type: ignore[call-overload]
        async for event in stream:
            pieces, events = pieces + event.choices[0].text, events + 1
        return [whole.choices[0].text for whole in wholes], [pieces], events

    wholes, (pieces,), events = asyncio.run(ask())
    assert len(set(wholes)) > 1 and pieces == wholes[3] and events > 1


def test_curl_streams(server: Server) -> None:
    if not (curl := shutil.which("curl")):
        pytest.skip("no curl here")
    body = json.dumps({"prompt": "The sea", "max_tokens": 5, "stream": True})
    command = [curl, "-sN", f"{server.url}/v1/completions", "-H", "content-type: application/json", "-d", body]
    out = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    assert out.startswith("data: {") and out.endswith("data: [DONE]\n\n")


def test_langchain(server: Server) -> None:
    langchain = pytest.importorskip("langchain_openai")
    chat = langchain.ChatOpenAI(
        base_url=f"{server.url}/v1", api_key="none", model="sayings", temperature=0, max_tokens=12
    )
    said = chat.invoke("Be kind.").content
    assert said and "".join(piece.content for piece in chat.stream("Be kind.")) == said


def test_litellm(server: Server) -> None:
    litellm = pytest.importorskip("litellm")
    where = {"api_base": f"{server.url}/v1", "api_key": "none", "max_tokens": 12, "temperature": 0}
    said = litellm.completion(model="openai/sayings", messages=[{"role": "user", "content": "Be kind."}], **where)
    assert said.choices[0].message.content
    text = litellm.text_completion(model="text-completion-openai/sayings", prompt="The sea", **where)
    assert text.choices[0].text


@pytest.mark.parametrize("completion", [False, True])
def test_llm(server: Server, tmp_path: Path, completion: bool) -> None:
    pytest.importorskip("llm")
    models = f"- model_id: mine\n  model_name: sayings\n  api_base: {server.url}/v1\n"
    (tmp_path / "extra-openai-models.yaml").write_text(models + ("  completion: true\n" if completion else ""))
    opening = "The sea" if completion else "Be kind."
    options = ["-o", "temperature", "0", "-o", "max_tokens", "12"]
    command = [sys.executable, "-m", "llm", "-m", "mine", opening, *options]
    environment = {**os.environ, "LLM_USER_PATH": str(tmp_path), "OPENAI_API_KEY": "none"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0 and done.stdout.strip(), done.stderr


def test_lm_eval_reads_the_losses_of_evaluate(server: Server) -> None:
    api = pytest.importorskip("lm_eval.models.openai_completions")
    from lm_eval.api.instance import Instance  # type: ignore[import-not-found]

    from florilegium.evaluation.losses import example_losses
    from florilegium.generation.tuned import load
    from florilegium.seedling import FOLDER
    from florilegium.tokens import Example, text_ids

    assert server.run is not None
    tuned = load(server.run)
    pairs = [("The", " sea remembers every ship."), ("Be", " kind whenever possible. and love, hope")]
    model = api.LocalCompletionsAPI(
        base_url=f"{server.url}/v1/completions", model="sayings", tokenizer=str(FOLDER), tokenizer_backend="huggingface",
        max_length=1023,
    )  # fmt: skip
    got = model.loglikelihood([Instance("loglikelihood", {}, pair, 0) for pair in pairs])
    for (first, rest), (loglikelihood, _) in zip(pairs, got, strict=True):
        ids, start = text_ids(tuned.base.tokenizer, [first + rest, first])
        (losses,) = example_losses(tuned.loaded, [Example(ids, [True] * len(ids))])
        assert loglikelihood == pytest.approx(-float(losses[len(start) - 1 :].sum()), abs=1e-3)


def schemathesis_run(server: Server, folder: Path, *options: str, hooks: str = "") -> str:
    """What it printed. It makes cases anew until FLORILEGIUM_SECONDS are over, from FLORILEGIUM_SEED, so that several may run
    side by side."""
    program = Path(sys.executable).with_name("schemathesis")
    if not program.is_file():
        pytest.skip("no schemathesis here")
    seconds, seed = os.environ.get("FLORILEGIUM_SECONDS", "300"), os.environ.get("FLORILEGIUM_SEED", "1")
    command = [str(program), "run", f"{server.url}/openapi.json", "-c", "not_a_server_error", "--phases", "fuzzing"]
    bounds = ["-n", "200", "--request-timeout", "120", "--max-time", seconds, "--seed", seed]
    environment = {**os.environ, **({"SCHEMATHESIS_HOOKS": hooks} if hooks else {})}
    done: subprocess.CompletedProcess[str] = subprocess.run(
        [*command, *bounds, *options], capture_output=True, text=True, cwd=folder, env=environment, timeout=7200
    )
    said = done.stdout + done.stderr
    assert "Test cases:" in said, said[-3000:]
    # an answer that never came, and a hook that failed, are findings too
    found = [line for line in said.splitlines() if re.search("Server error|Network Error|Runtime Error", line)]
    assert not found, said[-3000:]
    return done.stdout


def answers(server: Server) -> Counter[tuple[str, int]]:
    """How many of each route and status there were, as /metrics counts them."""
    found: Counter[tuple[str, int]] = Counter()
    for line in httpx.get(f"{server.url}/metrics").text.splitlines():
        if match := re.match(r'florilegium_requests_total\{route="([^"]+)",status="(\d+)"\} ([\d.e+]+)', line):
            found[match[1], int(match[2])] += int(float(match[3]))
    return found


@pytest.mark.slow
def test_schemathesis_finds_no_server_error(server: Server, tmp_path: Path) -> None:
    schemathesis_run(server, tmp_path)


@pytest.mark.slow
def test_schemathesis_finds_none_where_texts_are_written(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bodies that most of are answered with texts."""
    before = answers(server)
    routes = ("/v1/completions", "/v1/chat/completions", "/v1/quotes", "/v1/tags")
    only = [part for route in routes for part in ("--include-path", route)]
    said = schemathesis_run(server, tmp_path, "--mode", "positive", *only, hooks="tests.serve.schemathesis_hooks")
    came = answers(server) - before
    with capsys.disabled():
        print("\n" + said[said.index("Test cases:") :][:200])
        for route in routes:
            print(route, {status: count for (one, status), count in sorted(came.items()) if one == route})
    assert not any(status >= 500 for _, status in came)
    for route in routes:
        of_route = {status: count for (one, status), count in came.items() if one == route}
        assert of_route.get(200, 0) > sum(of_route.values()) / 2, (route, of_route)
