"""Clients that mean no good, or have bad luck: slow, many, cut off, too large. The server stays up, bounded and as it was."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest

from tests.serve.conftest import Server, serving
from tests.serve.test_safety import until


@pytest.fixture(scope="module")
def busy(run: Path) -> Iterator[Server]:
    with serving(run, "--slots", "4", "--queue", "16") as one:
        yield one


def resident_kib(server: Server) -> int:
    lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def idle(server: Server) -> bool:
    return server.gauge("texts_running") == 0 and server.gauge("texts_waiting") == 0


def connect(server: Server) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def head(size: int, path: str = "/v1/completions") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {size}\r\n\r\n".encode()


def test_a_thousand_requests_are_answered_or_told_to_wait(busy: Server) -> None:
    async def ask() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=1000)
        async with httpx.AsyncClient(limits=limits, timeout=600) as client:
            body = {"prompt": "The", "max_tokens": 1}
            return await asyncio.gather(*[client.post(f"{busy.url}/v1/completions", json=body) for _ in range(1000)])

    answers = asyncio.run(ask())
    codes = [answer.status_code for answer in answers]
    assert set(codes) <= {200, 429} and codes.count(200) >= 20
    assert all(answer.headers["retry-after"] for answer in answers if answer.status_code == 429)
    assert until(lambda: idle(busy))


def test_half_requests_and_slow_readers_keep_nobody_waiting(busy: Server) -> None:
    body = json.dumps({"prompt": "Once", "max_tokens": 200, "stream": True}).encode()
    half = [connect(busy) for _ in range(50)]
    for one in half:
        one.sendall(head(1000) + b'{"prompt": ')
    slow = connect(busy)
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
    slow.sendall(head(len(body)) + body)
    slow.recv(1)
    began = time.monotonic()
    assert busy.post("/v1/completions", prompt="The", max_tokens=1).status_code == 200
    assert time.monotonic() - began < 20
    for one in (*half, slow):
        one.close()
    assert until(lambda: idle(busy))


def test_memory_is_flat_over_many_requests_cut_off_at_any_place(busy: Server) -> None:
    body = json.dumps({"prompt": "Once upon", "max_tokens": 8, "stream": True}).encode()
    whole = head(len(body)) + body

    def rounds(count: int) -> None:
        for i in range(count):
            with connect(busy) as one:
                one.sendall(whole[: 1 + i * 37 % len(whole)] if i % 3 else whole)
                if i % 3 == 0:
                    one.recv(1 + i * 11 % 600)
            if i % 20 == 0:
                busy.post("/v1/completions", prompt="x" * 50_000, max_tokens=1)
                busy.post("/v1/quotes", n=2, max_tokens=4)
        assert until(lambda: idle(busy))

    rounds(60)  # caches and pools fill
    before = resident_kib(busy)
    rounds(240)
    grown = resident_kib(busy) - before
    assert grown < 64 * 1024, f"{grown:,} KiB more after 240 requests"
    assert busy.post("/v1/completions", prompt="The", max_tokens=1).status_code == 200


def test_a_prompt_of_a_million_characters_is_told_and_holds_nobody_up(busy: Server) -> None:
    answer = busy.post("/v1/completions", prompt="word " * 200_000, max_tokens=1)
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "context_length_exceeded"
    assert httpx.get(f"{busy.url}/health").json() == {"status": "ok"}


MILLION = 1_000_000
MANY: dict[str, tuple[str, bytes, str]] = {
    "prompts": ("completions", b'{"prompt": [' + b'"a",' * MILLION + b'"a"]}', "1,000,001 prompts; at most 128"),
    "true": ("completions", b'{"prompt": [' + b"true," * MILLION + b"true]}", "1,000,001 prompts; at most 128"),
    "token ids": ("completions", b'{"prompt": [' + b"5," * MILLION + b"5]}", "1,000,001 token ids; at most 1,000,000"),
    "token ids within the bound": ("completions", b'{"prompt": [' + b"5," * 500_000 + b"5]}", "the prompt has 500001"),
    "lists": ("completions", b'{"prompt": [' + b"[]," * MILLION + b"[]]}", "lists, objects and fields; at most 200,000"),
    "lists within the bound": ("completions", b'{"prompt": [' + b"[]," * 100_000 + b"[]]}", "100,001 prompts; at most 128"),
    "stop strings": ("completions", b'{"stop": [' + b"1," * MILLION + b"1]}", "1,000,001 stop strings; at most 4"),
    "fields": (
        "completions", b"{" + b",".join(b'"k%d": 1' % i for i in range(100_000)) + b"}", "100,000 fields; at most 100"),
    "notes": ("completions", b'{"metadata": {' + b",".join(b'"k%d": 1' % i for i in range(50_000)) + b"}}", "at most 16"),
    "messages": ("chat/completions", b'{"messages": [' + b"1," * MILLION + b"1]}", "1,000,001 messages; at most 2,000"),
    "parts": (
        "chat/completions", b'{"messages": [{"role": "user", "content": [' + b"1," * MILLION + b"1]}]}", "1,000,001 parts"),
    "tags to compare": ("tags", b'{"text": "a", "tags": [' + b"1," * MILLION + b"1]}", "1,000,001 tags; at most 500"),
    "tags to write about": ("quotes", b'{"about": [' + b"1," * MILLION + b"1]}", "1,000,001 tags; at most 32"),
}  # fmt: skip


@pytest.mark.parametrize("what", MANY)
def test_a_million_in_one_body_is_told_with_both_numbers(busy: Server, what: str) -> None:
    """And costs what one costs: telling each item that is wrong took minutes, in which nobody was answered."""
    path, body, says = MANY[what]
    with connect(busy) as one:
        one.sendall(head(len(body), f"/v1/{path}") + body)
        status, _, answer = one.recv(65536).partition(b"\r\n")
        answer += one.recv(65536) if b"{" not in answer else b""
    assert status.split()[1] == b"400" and says in answer.decode(), (status, answer)
    assert httpx.get(f"{busy.url}/health").json() == {"status": "ok"}
