"""How much of a request's JSON is looked at before its fields are: a body of a million wrong things costs no more than one.

pydantic tells everything that is wrong, each item of a list once for each type that it may have. For the 6 MB of a million
`true` in the place of prompts that took two minutes, in which the event loop answered nobody. So what is long is refused
first, by both numbers, and a list is read to its first wrong item."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from typing import Annotated, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, model_validator

MOST_TEXTS = 128  # of a request
MOST_IDS = 1_000_000  # of a prompt: as many as --max-length takes
MOST_FIELDS = 100  # of an object
MOST_MARKS = 200_000  # [, { and : of a body: without this many it has no million lists or fields to be read
T = TypeVar("T")
Items = Annotated[list[T], Field(fail_fast=True)]


def marks_in(body: bytes) -> int:
    """What may begin a list, an object or a field: reading a million of those takes seconds, counting them none."""
    return body.count(b"[") + body.count(b"{") + body.count(b":")


def at_most(most: int, of_what: str, kinds: tuple[type[Sized], ...] = (str, list, dict)) -> BeforeValidator:
    """Refuses a text, list or object that is longer, before anything of it is looked at, and says both numbers."""

    def check(value: object) -> object:
        if isinstance(value, kinds) and len(value) > most:
            raise ValueError(f"{len(value):,} {of_what}; at most {most:,}")
        return value

    return BeforeValidator(check)


def prompts_of_one_kind(value: object) -> object:
    """A prompt's lists are short enough and of texts, of token ids, or of lists of those: so of the four types that it may
    have one fits, and is not tried item by item."""
    if isinstance(value, list):
        _check_length(value)
        ids = [one for one in value if type(one) is list]
        if not (_all(value, str) or _all(value, int) or len(ids) == len(value)):
            raise ValueError("it is a text, token ids (0 or more), or a list of either")
        for one in ids:
            _check_length(one)
            if not _all(one, int):
                raise ValueError("a list in it holds something else than token ids (0 or more)")
    return value


def _check_length(value: list[object]) -> None:
    most, what = (MOST_IDS, "token ids") if value and type(value[0]) is int else (MOST_TEXTS, "prompts")
    if len(value) > most:
        raise ValueError(f"{len(value):,} {what}; at most {most:,}")


def _all(value: list[object], kind: type) -> bool:
    """Whether all are of that kind; `true` is no number, and no token is below 0."""
    return all(type(one) is kind for one in value) and (kind is not int or not value or min(value) >= 0)  # type: ignore[type-var, operator]  # they are numbers


class Bounded(BaseModel):
    """An object of few fields, whichever they are."""

    @model_validator(mode="before")
    @classmethod
    def _has_few_fields(cls, values: object) -> object:
        if isinstance(values, Mapping) and len(values) > MOST_FIELDS:
            raise ValueError(f"{len(values):,} fields; at most {MOST_FIELDS}")
        return values
