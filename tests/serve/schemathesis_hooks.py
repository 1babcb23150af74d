"""What schemathesis makes of our OpenAPI, narrowed to what the running server writes: models that there are, few and short
texts, prompts that hold something. All else stays as it was generated. Nearly every case would be refused otherwise: of
texts by chance hardly one names a model.

`SCHEMATHESIS_HOOKS=tests.serve.schemathesis_hooks schemathesis run ...`; see `test_clients.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import schemathesis  # type: ignore[import-not-found]

MODELS = ("sayings", "seedling", None)
Json = dict[str, Any]


@schemathesis.hook  # type: ignore[untyped-decorator]
def map_body(context: Any, body: Any) -> Any:
    narrow = ROUTES.get(context.operation.path)
    if narrow is None or not isinstance(body, dict):
        return body
    body = {name: whole(value) for name, value in body.items()}
    narrow(body)
    if "model" in body:
        body["model"] = MODELS[len(str(body["model"])) % 3]
    return body


def whole(value: Any) -> Any:
    """A whole number is one, however it is written: JSON knows no difference between 60 and 60.0."""
    if isinstance(value, list):
        return [whole(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def short(body: Json) -> None:
    """One or two texts of at most three tokens."""
    for name, most in (("n", 2), ("max_tokens", 3), ("max_completion_tokens", 3)):
        if isinstance(body.get(name), int):
            body[name] = 1 + body[name] % most
    body.setdefault("max_tokens", 2)
    if not body["max_tokens"]:
        body["max_tokens"] = 1
    if isinstance(body.get("stop"), list):
        body["stop"] = [one for one in body["stop"] if one][:4] or None


def completion(body: Json) -> None:
    short(body)
    prompt = body.get("prompt", "")
    if isinstance(prompt, list):
        of_lists = [[one] if isinstance(one, int) else one for one in prompt[:2]]
        prompt = [one[:30] if isinstance(one, str) else [4 + i % 256 for i in one[:30]] or [5] for one in of_lists]
        body["prompt"] = prompt or ""
    else:
        body["prompt"] = str(prompt)[:60]


def chat(body: Json) -> None:
    short(body)
    said = body["messages"][-1].get("content") if body.get("messages") else None
    said = said if isinstance(said, str) and said.strip() else "Be kind."
    body["messages"] = [*body.get("messages", [])[:3], {"role": "user", "content": said[:60]}]


def quotes(body: Json) -> None:
    short(body)
    if body.get("about") and len(str(body["about"])) % 10:  # draws many texts: one case of ten does
        del body["about"]
    if body.get("about") or body.get("novel_only"):
        body["stream"] = False
        body.pop("prompt" if body.get("about") else "temperature", None)
    if isinstance(body.get("prompt"), str):
        body["prompt"] = body["prompt"][:60]


def tags(body: Json) -> None:
    body["text"] = str(body.get("text", ""))[:60].strip() or "Be kind."
    if isinstance(body.get("tags"), list):
        body["tags"] = [str(one)[:20] for one in body["tags"][:5] if str(one).strip()] or None


ROUTES: dict[str, Callable[[Json], None]] = {
    "/v1/completions": completion, "/v1/chat/completions": chat, "/v1/quotes": quotes, "/v1/tags": tags,
}  # fmt: skip
