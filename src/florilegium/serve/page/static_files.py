"""The page's own files, and the policy under which a browser opens them.

Scripts and styles come from these files alone, nothing is fetched from elsewhere, no frame may hold the page, and a script
may not turn text into markup (Trusted Types): what a model or a row says stays text, whatever it is."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from starlette.responses import Response

from florilegium.serve.api_errors import ROUTES, ApiError

router = APIRouter(include_in_schema=False)
STATIC = Path(__file__).parent / "static"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
FILES = {path.name: path for path in STATIC.iterdir() if path.suffix in TYPES}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


@router.get("/")
async def page() -> Response:
    return _file("index.html")


@router.get("/static/{name}")
async def static(name: str) -> Response:
    return _file(name)


def _file(name: str) -> Response:
    """Raises ApiError (404) for a name that is none of the page's files."""
    if name not in FILES:
        raise ApiError(404, "no such route", ROUTES)
    path = FILES[name]
    return Response(path.read_bytes(), headers=HEADERS, media_type=TYPES[path.suffix])
