"""The routes by which the page trains: start, stop, resume, and one stream of what happens."""

from __future__ import annotations

import contextlib
from pathlib import PurePath

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from florilegium.serve.api_errors import ApiError
from florilegium.serve.events import EventStream, JsonObject, frames_of
from florilegium.serve.page.runs import named
from florilegium.serve.page.training import Training, free_name
from florilegium.serve.page.uploads import DataBody
from florilegium.serve.state import state_of
from florilegium.storage.paths import slug
from florilegium.storage.run_directory import RunDirectory

router = APIRouter(prefix="/api/training", include_in_schema=False)
MODEL_NAME = r"^[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?$"


class TrainBody(DataBody):
    """`model`: the demo model, a folder beside runs/, or a name on the Hub."""

    model: str = Field("seedling", pattern=MODEL_NAME)
    epochs: float | None = Field(None, gt=0, le=1000)
    max_steps: int | None = Field(None, ge=1, le=10_000_000)
    name: str | None = Field(None, max_length=60)


@router.get("")
async def state(request: Request) -> JsonObject:
    current = state_of(request).trainings.current
    return current.as_object() if current else {"type": "state", "run": None, "status": "none"}


@router.post("/start")
async def start(body: TrainBody, request: Request) -> JsonObject:
    run = free_name(slug(body.name or PurePath(body.data).name.partition(".")[0]))
    flags = [f"--model={body.model}", f"--output={run.path}"]
    flags += [f"--epochs={body.epochs:g}"] if body.epochs else []
    flags += [f"--max-steps={body.max_steps}"] if body.max_steps else []
    return (await _begin(request, run, "train", *body.arguments(), *flags)).as_object()


@router.post("/resume/{name}")
async def resume(name: str, request: Request) -> JsonObject:
    run = named(name)
    if run.has_adapter:
        fix = f"Train it for longer in a terminal: florilegium resume {name} --epochs N"
        raise ApiError(409, "this run is finished", fix, param="run", code="run_finished")
    return (await _begin(request, run, "resume", str(run.path))).as_object()


@router.post("/stop")
async def stop(request: Request) -> JsonObject:
    trainings = state_of(request).trainings
    trainings.stop()
    return trainings.current.as_object() if trainings.current else {"type": "state", "run": None, "status": "none"}


@router.get("/events")
async def events(request: Request) -> Response:
    trainings = state_of(request).trainings
    return EventStream(frames_of(trainings.events(lambda: trainings.ending)), contextlib.ExitStack())


async def _begin(request: Request, run: RunDirectory, *command: str) -> Training:
    server = state_of(request)
    training = await server.trainings.start(run, *command, "--json")
    if server.models.on_gpu:  # training needs the memory; who writes meanwhile has the model loaded again
        await server.models.release()
    return training
