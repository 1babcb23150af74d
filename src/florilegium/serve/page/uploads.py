"""A file from the page: taken in under a name of our own, and looked at by `florilegium inspect`.

Files lie in runs/.data/, under their content's hash: the same file is there once, and a run that is resumed finds its rows
again. Nothing of a sent name but its letters becomes a path."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import tempfile
from pathlib import Path

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import ClientDisconnect

from florilegium.data import finding_sentences
from florilegium.data.data_report import Findings
from florilegium.data.sources import SAMPLE
from florilegium.data.unpack import is_data_name
from florilegium.errors import FlorilegiumError
from florilegium.serve.api_errors import ApiError, bad
from florilegium.serve.events import JsonObject
from florilegium.serve.page.child import Child
from florilegium.storage.atomic_files import disk_errors
from florilegium.storage.json_record import as_object
from florilegium.storage.paths import slug
from florilegium.storage.run_directory import RUNS

router = APIRouter(prefix="/api", include_in_schema=False)
FOLDER = RUNS / ".data"
INSPECT_SECONDS = 300
SHOWN = (
    "notes", "columns", "list_columns", "template", "num_rows", "num_read", "duplicates", "skipped", "skipped_rows",
    "training_rows", "held_out_rows", "set_aside_rows", "characters", "tags", "rows",
)  # fmt: skip
Column = Field(None, max_length=200)


class DataBody(BaseModel):
    """Rows and how they are read: what `inspect` and `train` have in common."""

    model_config = ConfigDict(extra="forbid")

    data: str = Field(max_length=200)
    text_column: str | None = Column
    tags_column: str | None = Column
    fix_encoding: bool = False

    def arguments(self) -> list[str]:
        """For the command line; `--name=value`, so that no value can be a flag."""
        given = {"text-column": self.text_column, "tags-column": self.tags_column}
        flags = [f"--{name}={value}" for name, value in given.items() if value]
        return [data_path(self.data), *flags, *(["--fix-encoding"] if self.fix_encoding else [])]


@router.post("/uploads")
async def upload(name: str, request: Request) -> JsonObject:
    """The body is the file. Answers with the name under which it was taken."""
    if not is_data_name(name):
        fix = "Give .csv, .tsv, .json, .jsonl, .txt, .md, .parquet or .xlsx"
        raise bad("this kind of file is not read", fix, param="name")
    try:
        with disk_errors(FOLDER):
            return {"data": await _take(name, request)}
    except ClientDisconnect:
        cause = "the connection ended before the whole file had come"
        raise bad(cause, "Choose the file again; nothing of it was kept", param="name") from None
    except FlorilegiumError as error:
        raise ApiError(507, error.cause, error.fix, code="disk_full") from None


@router.post("/inspect")
async def inspect(body: DataBody) -> JsonObject:
    child = await Child.start("inspect", *body.arguments(), "--json")
    try:
        code = await asyncio.wait_for(child.wait(), INSPECT_SECONDS)
    except TimeoutError:
        fix = "Look at it in a terminal, where it may take longer: florilegium inspect FILE"
        raise bad(f"reading it took longer than {INSPECT_SECONDS} seconds", fix, param="data") from None
    finally:
        child.kill()
    if code:
        raise bad(*child.told, param="data", code="unreadable_data")
    report = as_object(json.loads(child.output))  # what `runs.inspect.inspect` returns: plain values
    found = Findings.from_json(report["findings"])
    told = finding_sentences(found)[
        0 if found.near_duplicates.pairs else 1 :
    ]  # the first tells near duplicates, of 0 too
    findings = [{"name": name, "sentence": sentence} for name, sentence in told]
    shown = {key: report[key] for key in SHOWN}
    return {**shown, "findings": findings, "can_be_mended": found.repair.can_be_mended}


def data_path(data: str) -> str:
    """The file of that name, as a path. Raises ApiError (404) for what was never uploaded."""
    if data == SAMPLE:
        return SAMPLE
    if not re.fullmatch(r"[A-Za-z0-9.-]{1,120}", data) or data.startswith(".") or not (FOLDER / data).is_file():
        raise ApiError(404, "no such file", "Choose the file on the page first", param="data", code="data_not_found")
    return str(FOLDER / data)


async def _take(name: str, request: Request) -> str:
    FOLDER.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    handle, half = tempfile.mkstemp(dir=FOLDER, prefix=".half-")
    try:
        with os.fdopen(handle, "wb") as file:
            async for piece in request.stream():
                digest.update(piece)
                file.write(piece)
        stem, _, endings = slug(name[-60:]).partition(".")
        taken = f"{stem}-{digest.hexdigest()[:10]}.{endings}"
        os.replace(half, FOLDER / taken)
        return taken
    finally:
        Path(half).unlink(missing_ok=True)
