"""From settings to a server that answers, and to its end: a signal stops new connections, what is under way is
finished."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import uvicorn

from florilegium.serve.app import make_app
from florilegium.serve.models import Load, Models
from florilegium.serve.settings import ServeSettings
from florilegium.serve.state import ServerState
from florilegium.serve.worker import Worker
from florilegium.signals import StopRequest
from florilegium.storage.run_directory import RUNS


def serve(
    runs: Sequence[Path],
    load: Load,
    settings: ServeSettings,
    sock: socket.socket,
    stop: StopRequest,
    ready: Callable[[list[str]], None],
) -> None:
    """Serves until a signal comes; `ready` is called with the models' names once requests are answered. Returns when all
    that was under way is answered, or `drain_seconds` are over."""
    worker = Worker(slots=settings.slots, max_length=settings.max_length, queue_size=settings.queue)
    worker.start()
    folder = RUNS if settings.page else None
    models = Models(worker, load, runs, folder=folder, most=settings.most_loaded)
    if runs:
        models.open(runs[0])
    state = ServerState(settings, models, worker)
    app = make_app(state)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, date_header=False, ws="none",
        timeout_keep_alive=30, timeout_graceful_shutdown=settings.drain_seconds, backlog=2048,
    )  # fmt: skip
    server = _Server(config, state, lambda: ready(list(models.known())))
    with stop.deferred():
        try:
            server.run(sockets=[sock])
        finally:
            worker.stop()


class _Server(uvicorn.Server):
    """Says when it listens, and leaves the signal that ended it to whoever runs it."""

    def __init__(self, config: uvicorn.Config, state: ServerState, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self.state, self.ready = state, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.state.trainings.ending = True  # a page that watches would keep it up
        await super().shutdown(sockets)
