"""What the routes share: the models, the worker, the counts, what is trained."""

from __future__ import annotations

from dataclasses import dataclass, field

from fastapi import Request

from florilegium.serve.metrics import Metrics
from florilegium.serve.models import Models
from florilegium.serve.page.training import Trainings
from florilegium.serve.settings import ServeSettings
from florilegium.serve.worker import Worker


@dataclass(frozen=True)
class ServerState:
    settings: ServeSettings
    models: Models
    worker: Worker
    metrics: Metrics = field(default_factory=Metrics)
    trainings: Trainings = field(default_factory=Trainings)


def state_of(request: Request) -> ServerState:
    state: ServerState = request.app.state.server
    return state
