"""What every request passes before any route is looked at: is it for this server, does it have the key, is it small and
quick enough. One place, so that no route can be forgotten.

Loopback needs no key, but any page in a browser can send to it: so the Host must be our own (DNS rebinding), and so must
the Origin where there is one. Nothing of a request is logged but its kind of failure."""

from __future__ import annotations

import asyncio
import hmac
import logging
import traceback
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from florilegium.serve.api_errors import ApiError
from florilegium.serve.settings import ServeSettings, is_loopback

log = logging.getLogger("florilegium.serve")
OWN_NAMES = {"localhost", "127.0.0.1", "::1"}


class Guard:
    def __init__(self, app: ASGIApp, settings: ServeSettings) -> None:
        self.app, self.settings = app, settings
        self.names = {*OWN_NAMES, settings.host.strip("[]").lower(), *(h.lower() for h in settings.allowed_hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        started = False

        async def watched_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            self._check(scope)
            await self.app(scope, self._bounded(receive, scope), watched_send)
        except ApiError as error:
            if not started:
                await error.response()(scope, receive, send)
        except Exception as error:  # a mistake of ours; its words might hold a text
            log.error("%s\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
            if not started:
                await ApiError(500, "a mistake of the server's; see its log").response()(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        """Raises ApiError for a request that is not for us, or comes without the key."""
        headers = {name.decode("latin-1").lower(): value for name, value in scope["headers"]}
        if self.settings.api_key is not None:
            wanted = b"Bearer " + self.settings.api_key.encode()
            if not hmac.compare_digest(headers.get("authorization", b""), wanted):
                raise ApiError(401, "the API key is missing or wrong", code="invalid_api_key")
        host, names = _host_of(headers.get("host", b"")), self.names
        if not is_loopback(self.settings.host):
            names = {*names, host}  # it has names that we do not know, and a page cannot know the key
        if host not in names:
            raise ApiError(403, "this Host is not served here; see --allowed-host", code="wrong_host")
        if "origin" in headers and _host_of(headers["origin"]) not in names:
            raise ApiError(403, "pages of other sites are not served (CORS is off)", code="wrong_origin")

    def _bounded(self, receive: Receive, scope: Scope) -> Receive:
        """`receive` for a body within its size and time."""
        most, seen = self.settings.max_body_bytes, 0
        loop = asyncio.get_running_loop()
        until, whole = loop.time() + self.settings.body_seconds, False

        async def bounded() -> Message:
            nonlocal seen, whole
            if whole:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, until - loop.time()))
            except TimeoutError:
                raise ApiError(408, "the body did not come in time") from None
            whole = message["type"] != "http.request" or not message.get("more_body", False)
            seen += len(message.get("body", b""))
            if seen > most:
                raise ApiError(413, f"the body is larger than {most:,} bytes", code="body_too_large")
            return message

        return bounded


def _host_of(value: bytes) -> str:
    """The name in a Host or Origin header, without scheme and port; empty for what is neither."""
    text = value.decode("latin-1")
    try:
        return urlsplit(text if "//" in text else f"//{text}").hostname or ""
    except ValueError:
        return ""
