"""Folders that others made: what is checked before Transformers or PEFT read a byte of them.

A model or an adapter from the network is data, and stays data: no pickle is opened, no code of a folder runs, and no
number in it can make us allocate more than its files hold. Here is what both have in common; `model_config.py` and
`adapter_config.py` check what each says."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from florilegium.errors import ModelError
from florilegium.storage.strict_json import loads

MAX_JSON_BYTES = 4 << 20
MAX_CONFIG_BYTES = 64 << 20  # a tokenizer_config.json may list every token that was added
AGAIN = "Get it again from where it came"


def check_file(path: Path, what: str, limit: int) -> None:
    """Raises ModelError unless `path` is a file of at most `limit` bytes: reading a FIFO or a device would never end."""
    try:
        facts = path.stat()
    except FileNotFoundError:
        raise ModelError(f"{what} is missing", "Get the folder again from where it came") from None
    except OSError as error:
        raise ModelError(f"{what} cannot be read ({error.strerror or error})", AGAIN) from None
    if not stat.S_ISREG(facts.st_mode):
        raise ModelError(f"{what} is not a file", AGAIN)
    if facts.st_size > limit:
        raise ModelError(f"{what} is over {limit:,} bytes", AGAIN)


def read_json(path: Path, what: str, limit: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """A JSON object of at most `limit` bytes. Raises ModelError."""
    check_file(path, what, limit)
    try:
        with path.open("rb") as file:
            values = loads(file.read(limit + 1))
    except (OSError, ValueError, RecursionError) as error:
        said = str(error) if "twice" in str(error) else type(error).__name__
        raise ModelError(f"{what} cannot be read ({said})", AGAIN) from None
    if not isinstance(values, dict):
        raise ModelError(f"{what} cannot be read (it is not a JSON object)", AGAIN)
    return values


def check_format(facts: Mapping[str, Any], newest: int, what: str) -> None:
    """Raises ModelError for a file of ours in a form that this version does not know; one without a number is of the
    first."""
    number = facts.get("format", 1)
    if type(number) is not int or number < 1:
        raise ModelError(f"{what} cannot be read: format is {str(number)[:40]!r}", AGAIN)
    if number > newest:
        raise ModelError(
            f"{what} is of format {str(number)[:20]}, and this version reads {newest}: a newer florilegium wrote it",
            "Update florilegium, in the way that it was installed",
        )


def refuse_code(folder: Path, name: str) -> None:
    """Raises ModelError when a JSON file of `folder` asks to run code that comes with it (`auto_map`)."""
    for path in sorted(folder.glob("*config.json")):
        values = read_json(path, f"the {path.name} of {name}", MAX_CONFIG_BYTES)
        if any(key == "auto_map" and value for key, value in entries(values)):
            raise ModelError(
                f"{name} asks to run its own code ({path.name})",
                "florilegium never runs a model's code: choose another model",
            )


def entries(values: Mapping[str, Any], depth: int = 8) -> Iterator[tuple[str, Any]]:
    """Keys and values of an object, and of the objects inside it."""
    for key, value in values.items():
        yield key, value
        if isinstance(value, dict) and depth:
            yield from entries(value, depth - 1)
