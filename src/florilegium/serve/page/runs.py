"""The runs in runs/, for the page: a list with their verdicts, their reports, the training row that a text is close to.

A run may be somebody else's. Its report is made anew of its figures, not sent as the file that lies there, and a browser
opens it in a sandbox where no script runs."""

from __future__ import annotations

import asyncio
from functools import lru_cache
from pathlib import Path, PurePath

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from florilegium.config import make_config, read_config
from florilegium.data import read_rows_of
from florilegium.data.novelty import RUN_WORDS, words
from florilegium.errors import FlorilegiumError
from florilegium.report.page import run_page
from florilegium.report.run_reader import read_run
from florilegium.runs.listing import RunSummary, list_runs
from florilegium.serve.api_errors import ApiError
from florilegium.serve.events import JsonObject
from florilegium.serve.page.static_files import HEADERS
from florilegium.storage.run_directory import RUNS, RunDirectory

router = APIRouter(prefix="/api", include_in_schema=False)
REPORT_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"


class CloseBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    run: str
    text: str = Field(max_length=20_000)


@router.get("/runs")
async def runs() -> JsonObject:
    found = await asyncio.to_thread(list_runs)
    return {"runs": [_as_object(summary) for summary in reversed(found)]}


@router.get("/runs/{name}/report")
async def report(name: str) -> Response:
    run = named(name)
    page = await asyncio.to_thread(lambda: run_page(read_run(run.path)))
    return Response(page, headers={**HEADERS, "Content-Security-Policy": REPORT_POLICY}, media_type="text/html")


@router.post("/close")
async def close(body: CloseBody) -> JsonObject:
    """The training row that holds eight words in a row of the text; null where there is none, or the rows are gone."""
    return {"row": await asyncio.to_thread(_closest, named(body.run), body.text)}


def named(name: str) -> RunDirectory:
    """A run in runs/ by its folder's name, which is no path. Raises ApiError (404)."""
    run = RunDirectory(RUNS / name)
    if PurePath(name).name != name or name.startswith(".") or "\\" in name or "\0" in name or not run.is_run:
        there = ", ".join(Path(one.path).name for one in reversed(list_runs())) or "none yet: train one"
        raise ApiError(404, "no such run", f"There are: {there}", param="run", code="run_not_found")
    return run


def _as_object(summary: RunSummary) -> JsonObject:
    run = read_run(Path(summary.path))
    verdict = run.verdict
    step = max((step for step, _ in run.series("loss")), default=0)
    return {
        **{key: value for key, value in summary.to_json().items() if key != "path"},
        "name": Path(summary.path).name,
        "verdict": None if verdict is None else {"works": verdict.works, "sentence": verdict.sentence},
        "step": int(step),
        "planned_steps": run.manifest.get("planned_steps"),
    }


def _closest(run: RunDirectory, text: str) -> str | None:
    wanted = _runs_of(words(text))
    try:
        rows = _texts(run, run.config.stat().st_mtime_ns)
    except (FlorilegiumError, OSError):
        return None
    return next((row for row in rows if wanted & _runs_of(words(row))), None)


@lru_cache(1)
def _texts(run: RunDirectory, changed: int) -> list[str]:
    """The rows' texts of the run that was asked for last."""
    config = make_config(read_config(run.config), source=str(run.config))
    rows = read_rows_of(config)
    return [str(quote[rows.template.main_column]) for quote in rows.quotes]


def _runs_of(own: list[str]) -> set[tuple[str, ...]]:
    """As `data/novelty.py` compares: runs of eight words, or the whole of a shorter text."""
    return {tuple(own[i : i + RUN_WORDS]) for i in range(max(1, len(own) - RUN_WORDS + 1))} if own else set()
