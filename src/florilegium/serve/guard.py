"""What every request passes before any route is looked at: is it for this server, does it have the key, is it small and
quick enough. One place, so that no route can be forgotten.

Loopback needs no key, but any page in a browser can send to it. So the Host must be our own (DNS rebinding), and what a
browser says of the page that asks (Origin, Sec-Fetch-Site) must name this very server, port and all; only a link may be
followed from elsewhere. A person's browser has the key from its own dialog (Basic: any name, the key as password). Nothing
of a request is logged but its kind of failure."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import logging
import traceback
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from florilegium.serve.api_errors import ApiError, mistake
from florilegium.serve.bounds import MOST_MARKS, marks_in
from florilegium.serve.settings import ServeSettings, is_loopback

log = logging.getLogger("florilegium.serve")
OWN_NAMES = {"localhost", "127.0.0.1", "::1"}
UPLOADS = "/api/uploads"
Headers = dict[str, bytes]


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
                await mistake().response()(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        """Raises ApiError for a request that is not for us, or comes without the key."""
        headers = {name.decode("latin-1").lower(): value for name, value in scope["headers"]}
        sent, key = _key_in(headers.get("authorization", b"")), self.settings.api_key
        if key is not None and not hmac.compare_digest(sent, key.encode()):
            fix = "Send the server's key as a header, Authorization: Bearer KEY, or as the password in a browser"
            raise ApiError(401, "the API key is missing or wrong", fix, code="invalid_api_key")
        host, names = _host_of(headers.get("host", b"")), self.names
        if not is_loopback(self.settings.host):
            names = {*names, host}  # it has names that we do not know, and a page cannot know the key
        if host not in names:
            fix = "Use the address that the server printed, or start it with --allowed-host NAME"
            raise ApiError(403, "unknown Host header", fix, code="wrong_host")
        if not self._is_own_page(headers, scope["method"]) and not self._is_named_origin(headers, scope["path"]):
            fix = "Start the server with --cors ORIGIN to let that page ask the API"
            raise ApiError(403, "cross-origin requests are not allowed", fix, code="wrong_origin")

    def _is_own_page(self, headers: Headers, method: str) -> bool:
        """Whether no page asks, or our own. What a link leads to may be looked at, not asked for by a script."""
        followed = method == "GET" and headers.get("sec-fetch-mode") == b"navigate"
        if headers.get("sec-fetch-site", b"none") not in (b"none", b"same-origin") and not followed:
            return False
        origin = headers.get("origin")
        if origin is None:
            return True
        own = _place_of(origin) == _place_of(headers.get("host", b"")) and _host_of(origin) != ""
        return own or _host_of(origin) in self.settings.allowed_hosts

    def _is_named_origin(self, headers: Headers, path: str) -> bool:
        """Whether --cors names the page that asks: for the API alone, never for what the page may do here."""
        return path.startswith("/v1/") and headers.get("origin", b"").decode("latin-1") in self.settings.cors

    def _bounded(self, receive: Receive, scope: Scope) -> Receive:
        """`receive` for a body within its size and time."""
        settings, seen, marks, whole = self.settings, 0, 0, False
        upload = settings.page and scope["path"] == UPLOADS
        most = settings.max_upload_bytes if upload else settings.max_body_bytes
        loop = asyncio.get_running_loop()
        until = loop.time() + (settings.upload_seconds if upload else settings.body_seconds)

        async def bounded() -> Message:
            nonlocal seen, marks, whole
            if whole:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, until - loop.time()))
            except TimeoutError:
                seconds = f"{settings.upload_seconds if upload else settings.body_seconds:g} seconds"
                raise ApiError(408, f"the body did not come within {seconds}", _other_way(upload)) from None
            whole = message["type"] != "http.request" or not message.get("more_body", False)
            seen += len(message.get("body", b""))
            marks += 0 if upload else marks_in(message.get("body", b""))
            if seen > most:
                cause = f"the body is larger than {most:,} bytes"
                raise ApiError(413, cause, _other_way(upload), code="body_too_large")
            if marks > MOST_MARKS:
                cause = f"the body has {marks:,} lists, objects and fields; at most {MOST_MARKS:,}"
                raise ApiError(400, cause, _other_way(upload), code="body_too_large")
            return message

        return bounded


def _other_way(upload: bool) -> str:
    if upload:
        return "Train on the file in a terminal, where it lies: florilegium train FILE"
    return "Send fewer or shorter prompts in a request"


def _host_of(value: bytes) -> str:
    """The name in a Host or Origin header, without scheme and port; empty for what is neither."""
    text = value.decode("latin-1")
    try:
        return urlsplit(text if "//" in text else f"//{text}").hostname or ""
    except ValueError:
        return ""


def _place_of(value: bytes) -> str:
    """Name and port of a Host or Origin header; the port that a scheme implies is none."""
    text = value.decode("latin-1").lower()
    scheme, _, place = text.rpartition("//")
    implied = {"http:": ":80", "https:": ":443"}.get(scheme)
    return place.removesuffix(implied) if implied else place


def _key_in(authorization: bytes) -> bytes:
    """The key of `Bearer KEY`, or of what a browser makes of a name and a password; else empty."""
    scheme, _, value = authorization.partition(b" ")
    if scheme == b"Bearer":
        return value
    if scheme != b"Basic":
        return b""
    try:
        return base64.b64decode(value, validate=True).partition(b":")[2]
    except binascii.Error:
        return b""
