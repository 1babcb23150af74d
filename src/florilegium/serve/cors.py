"""Other pages' access to the API: off unless `--cors ORIGIN` names them, and then for /v1/ alone.

A browser asks first (OPTIONS, without the key) whether a page of that origin may; the answer tells it, and lets nobody
in: the request itself passes the guard as any other. Streamed answers and errors carry the headers too."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Cors:
    def __init__(self, app: ASGIApp, origins: tuple[str, ...]) -> None:
        self.app, self.origins = app, {origin.encode("latin-1") for origin in origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope.get("headers", ()))
        origin = headers.get(b"origin")
        if scope["type"] != "http" or origin not in self.origins or not scope["path"].startswith("/v1/"):
            await self.app(scope, receive, send)
            return
        own = [(b"access-control-allow-origin", origin), (b"vary", b"Origin")]
        if scope["method"] == "OPTIONS" and b"access-control-request-method" in headers:
            await send({"type": "http.response.start", "status": 204, "headers": own + _preflight(headers)})
            await send({"type": "http.response.body", "body": b""})
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *own]}
            await send(message)

        await self.app(scope, receive, send_with_headers)


def _preflight(headers: dict[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    asked = [name.strip().lower() for name in headers.get(b"access-control-request-headers", b"").split(b",")]
    known = {b"authorization", b"content-type", b"accept", b"openai-organization", b"openai-project"}
    allowed = [name for name in asked if name in known or name.startswith(b"x-stainless-")]
    return [
        (b"access-control-allow-methods", b"GET, POST"),
        (b"access-control-allow-headers", b", ".join(allowed)),
        (b"access-control-max-age", b"600"),
    ]
