"""Who is let in, what is bounded, and how it ends: keys, hosts, full queues, closed connections, signals."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2 as httpx
import pytest

from tests.serve.conftest import Server, serving

KEY = "k3y-of-this-test-only"
# At this temperature every token is as likely as another, so hardly a text ends by itself: with this seed none does.
LONG = {"prompt": "Once", "max_tokens": 900, "temperature": 100.0, "top_p": 1.0, "n": 1, "seed": 1}


def until(true: Callable[[], bool], seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.02)
    return False


@pytest.fixture(scope="module")
def small(run: Path) -> Iterator[Server]:
    """Open to other machines, with a key; one text at once and two that wait."""
    flags = ("--host", "0.0.0.0", "--slots", "1", "--queue", "2")
    with serving(run, *flags, FLORILEGIUM_API_KEY=KEY) as one:
        yield one


def ask(server: Server, **body: object) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/completions", json=body, headers={"Authorization": f"Bearer {KEY}"}, timeout=60)


def running(server: Server) -> float:
    text = httpx.get(f"{server.url}/metrics", headers={"Authorization": f"Bearer {KEY}"}).text
    return sum(
        float(line.split()[1])
        for line in text.splitlines()
        if line.startswith(("florilegium_texts_running ", "florilegium_texts_waiting "))
    )


@pytest.mark.parametrize(
    "key", [None, "Bearer", "Bearer wrong", KEY, f"Basic {KEY}", f"Bearer {KEY}x", f"bearer {KEY}"]
)
def test_no_route_and_no_method_answers_without_the_key(small: Server, key: str | None) -> None:
    routes = ["/", "/health", "/metrics", "/version", "/openapi.json", "/docs", "/v1/models", "/v1/models/sayings",
              "/v1/completions", "/v1/chat/completions", "/v1/quotes", "//v1/models", "/v1/models/", "/nowhere"]  # fmt: skip
    with httpx.Client(headers={} if key is None else {"Authorization": key}) as client:
        for route in routes:
            for method in ("GET", "POST", "OPTIONS", "HEAD", "DELETE"):
                response = client.request(method, small.url + route)
                assert response.status_code == 401, (method, route)
                assert "access-control-allow-origin" not in response.headers
    assert ask(small, prompt="The", max_tokens=1).status_code == 200


def test_other_hosts_and_origins_are_refused(server: Server, small: Server) -> None:
    for headers in (
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
    ):
        assert httpx.get(f"{server.url}/health", headers=headers).status_code == 403, headers
        assert httpx.post(f"{server.url}/v1/completions", headers=headers, content=b"{}").status_code == 403
    for headers in ({"Host": "localhost"}, {"Host": "[::1]:99"}, {"Origin": server.url}):
        assert httpx.get(f"{server.url}/health", headers=headers).status_code == 200, headers
    assert (
        httpx.get(f"{small.url}/health", headers={"Host": "my.machine", "Authorization": f"Bearer {KEY}"}).status_code
        == 200
    )


def test_a_full_queue_is_429_and_a_closed_connection_frees_its_place(small: Server) -> None:
    """Streaming and not: three long requests fill it; the clients go; the next one is answered."""
    for stream in (False, True):
        sockets = [_begin(small, {**LONG, "stream": stream}) for _ in range(3)]
        assert until(lambda: running(small) == 3)
        full = ask(small, prompt="The", max_tokens=1)  # at once: the first text takes seconds
        assert full.status_code == 429 and full.headers["retry-after"] == "1"
        assert full.json()["error"]["type"] == "rate_limit_error"
        for one in sockets:
            one.close()
        assert until(lambda: running(small) == 0, 3)
        assert ask(small, prompt="The", max_tokens=1).status_code == 200


def _begin(server: Server, body: dict) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    content = json.dumps(body).encode()
    one = socket.create_connection((host, int(port)))
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    one.sendall(head.encode() + content)
    return one


def test_a_body_that_is_too_large_is_413(server: Server) -> None:
    def endless() -> Iterator[bytes]:
        yield b'{"prompt": "'
        for _ in range(200):
            yield b"x" * 100_000

    for content in (b"x" * 9_000_000, endless()):
        response = httpx.post(
            f"{server.url}/v1/completions", content=content, headers={"content-type": "application/json"}
        )
        assert response.status_code == 413 and response.json()["error"]["code"] == "body_too_large"


def test_sigterm_finishes_what_is_under_way_and_logs_no_text(run: Path) -> None:
    with (
        serving(run) as one,
        httpx.stream(
            "POST",
            f"{one.url}/v1/completions",
            json={"prompt": "Secretword", "max_tokens": 60, "stream": True},
            timeout=60,
        ) as response,
    ):
        lines = response.iter_lines()
        next(lines)
        httpx.post(f"{one.url}/v1/completions", json={"prompt": "Secretword", "nonsense": 1})
        one.process.send(signal.SIGTERM)
        assert [line for line in lines if line][-1] == "data: [DONE]"
        assert one.process.wait(20) == 143
        out, err = one.process.out, one.process.err
        assert "Secretword" not in out + err and "stopped by SIGTERM" in err


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        (["--host", "0.0.0.0"], 2, "there is no key"),
        (["--api-key-file", "nowhere.txt"], 2, "cannot read nowhere.txt"),
        (["--port", "99999"], 2, "--port is 99999"),
        (["--slots", "0"], 2, "--slots is 0"),
        (["another"], 4, "no run or adapter at another"),
    ],
)
def test_what_cannot_work_is_refused_at_once(run: Path, flags: list[str], code: int, says: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "florilegium", "serve", str(run), *flags], capture_output=True, text=True
    )
    assert done.returncode == code and says in done.stderr and "PyTorch" not in done.stderr


def test_a_port_in_use_is_told_before_the_model_is_loaded(run: Path, server: Server) -> None:
    port = server.url.rsplit(":", 1)[1]
    done = subprocess.run(
        [sys.executable, "-m", "florilegium", "serve", str(run), "--port", port], capture_output=True, text=True
    )
    assert done.returncode == 2 and "cannot listen" in done.stderr and "PyTorch" not in done.stderr
