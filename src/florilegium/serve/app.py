"""The application: every route behind the guard, errors in OpenAI's form, and an OpenAPI description that is true."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from fastapi import APIRouter, Depends, FastAPI, Request
from pydantic import BaseModel
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as SentMessage

from florilegium.config.installed import installed_version
from florilegium.serve import completions, quotes, tags
from florilegium.serve.api_errors import ApiError, add_handlers
from florilegium.serve.cors import Cors
from florilegium.serve.guard import Guard
from florilegium.serve.metrics import Metrics
from florilegium.serve.page import runs, static_files, training_routes, uploads
from florilegium.serve.schema import UNSUPPORTED, ChatBody, CompletionBody, QuotesBody, TagsBody
from florilegium.serve.state import ServerState, state_of

router = APIRouter()
BODIES: dict[str, type[BaseModel]] = {
    "/v1/completions": CompletionBody,
    "/v1/chat/completions": ChatBody,
    "/v1/quotes": QuotesBody,
    "/v1/tags": TagsBody,
}


@router.get("/health")
async def health(request: Request) -> Response:
    """200 while the engine is there, 503 after it failed."""
    alive = state_of(request).worker.alive
    return JSONResponse({"status": "ok" if alive else "engine failed"}, 200 if alive else 503)


@router.get("/version")
async def version() -> dict[str, str]:
    return {"version": installed_version("florilegium")}


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    return Response(state_of(request).metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/v1/models")
async def list_models(request: Request) -> dict[str, object]:
    return {"object": "list", "data": [one.as_object() for one in state_of(request).models.known().values()]}


@router.get("/v1/models/{name:path}")
async def one_model(name: str, request: Request) -> dict[str, object]:
    return state_of(request).models.find(name).as_object()


def make_app(state: ServerState) -> ASGIApp:
    app = FastAPI(
        title="florilegium", version=installed_version("florilegium"), docs_url=None, redoc_url=None, lifespan=_lifespan
    )
    app.state.server = state
    for part in (router, completions.router, quotes.router, tags.router):
        app.include_router(part)
    add_handlers(app, {path: (*body.model_fields, *UNSUPPORTED) for path, body in BODIES.items()})
    for name in ("running", "waiting", "slots"):
        state.metrics.gauge(
            f"texts_{name}" if name != "slots" else name, f"texts: {name}", partial(getattr, state.worker, name)
        )
    if state.settings.page:
        for part in (static_files.router, runs.router, uploads.router, training_routes.router):
            app.include_router(part, dependencies=[Depends(_asked_by_the_page)])
    return Counting(Cors(Guard(app, state.settings), state.settings.cors), state.metrics)


async def _asked_by_the_page(request: Request) -> None:
    """What changes something carries a header that no other page can send without asking first (CORS), and none is let."""
    if request.method != "GET" and request.headers.get("x-florilegium") != "page":
        raise ApiError(403, "this route is for the page", "Ask the API under /v1", code="not_the_page")


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Tokens come to this loop while it runs."""
    worker = app.state.server.worker
    worker.post = asyncio.get_running_loop().call_soon_threadsafe
    yield
    await app.state.server.trainings.close()


class Counting:
    """Counts answers by route and status; a path that is no route is one name, or anybody could make names."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted_send(message: SentMessage) -> None:
            if message["type"] == "http.response.start":
                path = scope["path"] if scope["path"] in KNOWN else "other"
                self.metrics.requests.labels(path, message["status"]).inc()
            await send(message)

        await self.app(scope, receive, counted_send)


KNOWN = {*BODIES, "/health", "/version", "/metrics", "/v1/models", "/openapi.json"}
