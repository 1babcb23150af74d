"""A data set on the Hugging Face Hub: `owner/name`, or `owner/name@revision`, through `datasets`.

`datasets` downloads, caches and decodes; dataset scripts are not a code path (version 5 refuses them). Its errors come
in a dozen classes and several lines, so whatever it raises becomes one line here, with what to try. What it yields is
checked row by row like any file: it lets nulls, numbers and bytes that are not UTF-8 pass."""

from __future__ import annotations

import os
import re
from typing import Any

from florilegium.data.raw_rows import Stream, check_header
from florilegium.data.tables import as_text, take_row
from florilegium.errors import DataError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?", re.ASCII)


def is_hub_id(name: str) -> bool:
    """Whether `name` has the form `owner/name` or `owner/name@revision`."""
    return _HUB_ID.fullmatch(name) is not None


def read_hub(name: str, split: str, columns: tuple[str, ...], also: tuple[str, ...] = ()) -> Stream:
    """The rows of one split: the columns that the template names, and of `also` those that are there; the others as
    None.

    Raises: DataError when the data set, the revision or the split cannot be had, or when it lacks one of `columns`.
    """
    data = _load(name, split)
    names = list(data.column_names)
    check_header(name, names, columns)
    if not len(data):
        raise DataError(f"{name}: the split {split!r} has no rows", "Choose another split")
    extra = [column for column in also if column in names and column not in columns]
    needed = data.select_columns([*columns, *extra]).with_format("arrow")
    for start in range(0, len(data), 256):
        table = needed[start : start + 256]
        for index in range(table.num_rows):
            others = dict.fromkeys(names) | {column: as_text(table.column(column)[index]) for column in extra}
            cells = {column: table.column(column)[index] for column in columns}
            yield take_row(f"{name}: row {start + index + 1}", others, cells)


def _load(name: str, split: str) -> Any:
    repository, _, revision = name.partition("@")
    try:
        import datasets

        return datasets.load_dataset(repository, split=split, revision=revision or None)
    except ImportError as error:
        raise DataError(f"{name}: the package 'datasets' is missing ({error})", "Type: pip install datasets") from error
    # The widest net on purpose: `datasets` passes on errors of half a dozen libraries, and none of them is a fault of
    # ours.
    except Exception as error:
        first = next(iter(str(error).splitlines()), "")[:200]
        raise DataError(
            f"{name}: cannot load it from the Hub ({type(error).__name__}: {first})", _fix(error, name, split)
        ) from error


def _fix(error: Exception, name: str, split: str) -> str:
    said = f"{type(error).__name__} {error}".lower()
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        return f"HF_HUB_OFFLINE is set: unset it, or give the path of a local file instead of {name}"
    if "split" in said:
        return f"There is no split {split!r}: choose one of those listed"
    if "gated" in said or "401" in said or "403" in said:
        return "Accept the terms on its page on huggingface.co and set HF_TOKEN"
    if "notfound" in said or "doesn't exist" in said or "404" in said:
        return "Check the name (owner/name) and the revision; for a private data set set HF_TOKEN; for a local file check its path"
    if any(sign in said for sign in ("connection", "timeout", "timed out", "resolve", "offline", "reach", "network")):
        return "Is there a network? Without one, give the path of a local file, or sample"
    return "Download its files and give their path"
