"""Errors as OpenAI's clients expect them: {"error": {"message", "type", "param", "code"}}. What a request asks for wrongly
is 4xx, always; 5xx is for our own mistakes. A message is two sentences, as everywhere here: the cause, and what to do."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from florilegium.errors import FlorilegiumError, nearest, one_line

TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
ROUTES = "The routes and what they take are in /openapi.json"


class ApiError(HTTPException):  # FastAPI lets those alone through while it reads a body
    def __init__(
        self,
        status: int,
        cause: str,
        fix: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int = 0,
    ) -> None:
        self.status, self.cause, self.fix = status, one_line(cause), one_line(fix)
        super().__init__(status, self.message)
        self.param, self.code, self.retry_after = param, code, retry_after

    @property
    def message(self) -> str:
        return f"{self.cause}. {self.fix}" if self.fix else self.cause

    def body(self) -> dict[str, object]:
        kind = TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        param = None if self.param is None else one_line(self.param)  # a name that somebody sent, of any characters
        return {"error": {"message": self.message, "type": kind, "param": param, "code": self.code}}

    def response(self) -> JSONResponse:
        headers = {"Retry-After": str(self.retry_after)} if self.retry_after else {}
        if self.status == 401:
            headers["WWW-Authenticate"] = 'Bearer, Basic realm="florilegium: any name, the key as password"'
        return JSONResponse(self.body(), self.status, headers)


def bad(cause: str, fix: str, *, param: str | None, code: str | None = None) -> ApiError:
    return ApiError(400, cause, fix, param=param, code=code)


def mistake() -> ApiError:
    return ApiError(500, "internal server error", "Please report it with the server's log")


def add_handlers(app: FastAPI, fields: Mapping[str, tuple[str, ...]]) -> None:
    """Answers in OpenAI's form for whatever is raised; `fields` are the parameters of each route, for "did you mean"."""

    @app.exception_handler(ApiError)
    async def ours(request: Request, error: ApiError) -> JSONResponse:
        return error.response()

    @app.exception_handler(FlorilegiumError)
    async def library(request: Request, error: FlorilegiumError) -> JSONResponse:
        return ApiError(400 if error.exit_code in (2, 3) else 500, error.cause, error.fix).response()

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        return mistake().response()

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return _of_fields(error, fields.get(request.url.path, ())).response()

    @app.exception_handler(HTTPException)
    async def routing(request: Request, error: HTTPException) -> JSONResponse:
        allowed = (error.headers or {}).get("Allow", "another one")
        known = {
            404: ("no such route", ROUTES),
            405: ("this route does not take that method", f"It takes {allowed}"),
        }
        return ApiError(error.status_code, *known.get(error.status_code, (str(error.detail), ROUTES))).response()


def _of_fields(error: RequestValidationError, known: tuple[str, ...]) -> ApiError:
    """The first field that is wrong. Its value is not repeated: it may be a text."""
    first = error.errors()[0]
    place = [part for part in first["loc"] if part != "body"]
    param = str(place[0]) if place and first["type"] != "json_invalid" else None
    if first["type"] == "extra_forbidden":
        name = str(place[-1])
        guess = nearest(name, known) or f"Leave it out. {ROUTES}"
        return bad(f"unknown parameter {name!r}", guess, param=param, code="unknown_parameter")
    said = str(first["msg"]).removeprefix("Value error, ")
    if param is None and first["type"] == "value_error":
        return bad(said, ROUTES, param=None, code="invalid_value")
    if param is None:
        return bad("the body is not a JSON object", ROUTES, param=None, code="invalid_json")
    path = ".".join(str(part) for part in place)
    return bad(f"{path}: {said}", ROUTES, param=param, code="invalid_value")
