"""From settings to a server that answers, and to its end: a signal stops new connections, what is under way is
finished."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn

from florilegium.errors import ModelError, ResourceError
from florilegium.generation.tuned import Tuned
from florilegium.serve.app import make_app
from florilegium.serve.models import models_of
from florilegium.serve.settings import ServeSettings
from florilegium.serve.state import ServerState
from florilegium.serve.worker import Worker
from florilegium.signals import StopRequest
from florilegium.storage.library_errors import is_out_of_memory

SLOTS = {"cpu": 16, "cuda": 64}


def serve(
    tuned: Tuned,
    run: Path,
    settings: ServeSettings,
    sock: socket.socket,
    stop: StopRequest,
    ready: Callable[[list[str]], None],
) -> None:
    """Serves until a signal comes; `ready` is called with the models' names once requests are answered. Returns when all
    that was under way is answered, or `drain_seconds` are over."""
    slots = settings.slots or SLOTS[tuned.base.device.type]
    worker = Worker(tuned.loaded, slots=slots, capacity=context_length(tuned, settings), queue_size=settings.queue)
    try:
        worker.start()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ResourceError("the engine does not fit in memory", "Lower --max-length or --slots") from None
    models = models_of(tuned, run)
    app = make_app(ServerState(settings, models, worker))
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, date_header=False, ws="none",
        timeout_keep_alive=30, timeout_graceful_shutdown=settings.drain_seconds, backlog=2048,
    )  # fmt: skip
    server = _Server(config, lambda: ready(list(models.by_name)))
    with stop.deferred():
        try:
            server.run(sockets=[sock])
        finally:
            worker.stop()


def context_length(tuned: Tuned, settings: ServeSettings) -> int:
    """Tokens of a text at most: what was asked for, or fewer where the model's positions end."""
    positions = getattr(tuned.base.model.config, "max_position_embeddings", None)
    if positions is not None and positions < 2:
        raise ModelError(f"max_position_embeddings is {positions}", "The model's config.json is damaged")
    return min(settings.max_length, positions or settings.max_length)


class _Server(uvicorn.Server):
    """Says when it listens, and leaves the signal that ended it to whoever runs it."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self.ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.ready()
