"""What the routes share: the models, the worker, the counts."""

from __future__ import annotations

from dataclasses import dataclass, field

from fastapi import Request

from florilegium.serve.metrics import Metrics
from florilegium.serve.models import Models
from florilegium.serve.settings import ServeSettings
from florilegium.serve.worker import Worker


@dataclass(frozen=True)
class ServerState:
    settings: ServeSettings
    models: Models
    worker: Worker
    metrics: Metrics = field(default_factory=Metrics)


def state_of(request: Request) -> ServerState:
    state: ServerState = request.app.state.server
    return state
