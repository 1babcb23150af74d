"""As much of the Hub's API as an upload speaks, on loopback: repositories, preupload, LFS, commits that are whole or not
there, the tree. `trouble` makes a route fail as often as it says: a status, or "cut" for a connection that ends amid."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_LoopbackLoopbackLoopback1234"
ROUTES = {
    "create": "/api/repos/create", "yaml": "/api/validate-yaml", "preupload": "/preupload/", "batch": "/info/lfs/objects/batch",
    "put": "/lfs/", "commit": "/commit/", "tree": "/tree/", "xet": "/xet-write-token/",
}  # fmt: skip


@dataclass
class FakeHub:
    address: str = ""
    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    trouble: dict[str, list[int | str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, value: Any = None) -> None:
        data = json.dumps(value if value is not None else {"error": f"status {status}"}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do(self) -> None:
        length = self.headers.get("Content-Length")
        body = self.rfile.read(int(length)) if length else self._chunks()
        route = next((name for name, part in ROUTES.items() if part in self.path), self.path)
        self.hub.asked.append(f"{self.command} {route}")
        if waiting := self.hub.trouble.get(route):
            what = waiting.pop(0)
            if what == "cut":
                self.close_connection = True
                self.connection.close()
                return
            self.answer(int(what))
            return
        if route != "put" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer(401)
            return
        getattr(self, f"on_{route}", lambda _: self.answer(404))(body)

    do_GET = do_POST = do_PUT = do_HEAD = do

    def _chunks(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return b""
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def repo(self) -> str:
        return "/".join(self.path.removeprefix("/api/models/").lstrip("/").split("/")[:2]).removesuffix(".git")

    def on_create(self, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
        if name in self.hub.repos:
            self.answer(409, {"error": "exists", "url": f"{self.hub.address}/{name}"})
            return
        self.hub.repos[name] = {}
        self.hub.private[name] = bool(asked.get("private") or asked.get("visibility") == "private")
        self.answer(200, {"url": f"{self.hub.address}/{name}"})

    def on_yaml(self, body: bytes) -> None:
        self.answer(200, {"warnings": [], "errors": []})

    def on_preupload(self, body: bytes) -> None:
        files = [
            {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith((".safetensors", ".gguf")) else "regular", "shouldIgnore": False}
            for f in json.loads(body)["files"]
        ]  # fmt: skip
        self.answer(200, {"files": files})

    def on_batch(self, body: bytes) -> None:
        upload = lambda oid: {"upload": {"href": f"{self.hub.address}/lfs/{oid}"}}  # noqa: E731
        objects = [{**entry, "actions": upload(entry["oid"])} for entry in json.loads(body)["objects"]]
        self.answer(200, {"transfer": "basic", "objects": objects})

    def on_put(self, body: bytes) -> None:
        oid = self.path.rsplit("/", 1)[-1]
        if hashlib.sha256(body).hexdigest() != oid:
            self.answer(400)
            return
        self.hub.large[oid] = body
        self.answer(200, {})

    def on_commit(self, body: bytes) -> None:
        lines = [json.loads(line) for line in body.splitlines()]
        files = {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
        self.hub.repos[self.repo()] |= files
        self.answer(
            200,
            {
                "success": True,
                "commitOid": "a" * 40,
                "commitUrl": f"{self.hub.address}/{self.repo()}/commit/{'a' * 40}",
            },
        )

    def on_tree(self, body: bytes) -> None:
        entries = []
        for path, data in self.hub.repos[self.repo()].items():
            entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": "0" * 40}
            if (oid := hashlib.sha256(data).hexdigest()) in self.hub.large:
                entry["lfs"] = {"oid": oid, "size": len(data), "pointerSize": 130}
            entries.append(entry)
        self.answer(200, entries)


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
