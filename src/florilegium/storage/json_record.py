"""Frozen dataclasses that lie on disk as JSON objects, a key a field, and are read again by the types of their fields.

    @dataclass(frozen=True)
    class Found(JsonRecord):
        rows: int
        places: list[str]

    Found.from_json(Found(1, ["q.csv:7"]).to_json())

A file of an earlier version lacks what came later: such a field has its default. A key that is no field's is passed
over. A class whose object has other keys than its fields has its own `to_json` and `from_json`."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from functools import cache
from typing import TYPE_CHECKING, Self, Union, cast, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class JsonRecord:
    """What a dataclass inherits to be written and read."""

    def to_json(self) -> dict[str, object]:
        """Its fields as plain values, in their order."""
        return {name: plain(value) for name, value in vars(self).items()}

    @classmethod
    def from_json(cls, found: object) -> Self:
        """Raises ValueError that names what is missing or of another kind."""
        record: type = cls
        values, kinds = as_object(found), _kinds(record)
        if missing := [name for name in _required(record) if name not in values]:
            raise ValueError(f"{missing[0]} is missing")
        make: Callable[..., Self] = cls
        return make(**{name: _read(kinds[name], values[name], name) for name in kinds if name in values})


def as_object(found: object) -> dict[str, object]:
    """A JSON object. Raises ValueError for what is none."""
    if not isinstance(found, dict):
        raise ValueError(f"{str(found)[:40]!r} is not a JSON object")
    return found


def plain(value: object) -> object:
    """`value` as JSON has it: of records objects, of tuples lists."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, JsonRecord):
        return value.to_json()
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, (list, tuple)) else value


@cache
def _kinds(record: type) -> dict[str, object]:
    return get_type_hints(record)


@cache
def _required(record: type) -> list[str]:
    """The fields without a default."""
    own: tuple[Field[object], ...] = fields(cast("type[DataclassInstance]", record))
    return [one.name for one in own if one.default is MISSING and one.default_factory is MISSING]


def _read(kind: object, found: object, name: str) -> object:
    """`found` as a field of this kind holds it. Raises ValueError where it is of another one."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _one_of(inner, found, name)
    if origin is list and isinstance(found, list):
        return [_read(inner[0], one, name) for one in found]
    if origin is tuple and isinstance(found, list) and len(found) == len(inner):
        return tuple(_read(one, value, name) for one, value in zip(inner, found, strict=True))
    if origin in (dict, Mapping) and isinstance(found, dict):
        return {key: _read(inner[1], value, f"{name}.{key}") for key, value in found.items()}
    if isinstance(kind, type) and issubclass(kind, JsonRecord):
        return kind.from_json(found)
    if kind is object or (isinstance(kind, type) and _is_a(kind, found)):
        return found
    raise ValueError(f"{name} is {str(found)[:40]!r}")


def _one_of(kinds: tuple[object, ...], found: object, name: str) -> object:
    if found is None and types.NoneType in kinds:
        return None
    for kind in kinds:
        with contextlib.suppress(ValueError):
            return _read(kind, found, name)
    raise ValueError(f"{name} is {str(found)[:40]!r}")


def _is_a(kind: type, found: object) -> bool:
    """JSON has one kind of number, and its true is none."""
    if isinstance(found, bool):
        return kind is bool
    return isinstance(found, (int, float) if kind is float else kind)
