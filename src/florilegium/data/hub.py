"""A data set on the Hugging Face Hub: `owner/name`, or `owner/name@revision`, through `datasets`.

`datasets` downloads, caches and decodes; dataset scripts are not a code path (version 5 refuses them). Its errors come
in a dozen classes and several lines, so whatever it raises becomes one line here, with what to try. What it yields is
checked row by row like any file: it lets nulls, numbers and bytes that are not UTF-8 pass."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping
from typing import Any

from florilegium.data.arrow_rows import Columns, Names, take_row
from florilegium.data.raw_rows import Stream, check_names
from florilegium.data.split_files import Chosen, choose_splits
from florilegium.errors import DataError, ResourceError, reason_of
from florilegium.storage.library_errors import chain, http_status, is_connection_error, ran_out_of_memory

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?", re.ASCII)


def is_hub_id(name: str) -> bool:
    """Whether `name` has the form `owner/name` or `owner/name@revision`."""
    return _HUB_ID.fullmatch(name) is not None


def open_hub(name: str, split: str | None) -> Chosen[Any]:
    """The sides of a data set, as tables of `datasets`. Raises: DataError when it cannot be had."""
    loaded = _load(name, split)
    if isinstance(loaded, Mapping):
        return choose_splits({key: [table] for key, table in loaded.items()}, None, name)
    return Chosen((loaded,))


def read_table(name: str, data: Any, columns: Columns = None) -> Stream:
    """The rows of one split; columns that are not wanted are None. Raises: DataError for an empty one."""
    names = list(data.column_names)
    check_names(name, names)
    if not len(data):
        raise DataError(f"{name}: the split has no rows", "Choose another split: --split NAME")
    needed = data.select_columns([n for n in names if columns is None or n in columns]).with_format("arrow")
    labels: Names = {n: f.names for n, f in (getattr(data, "features", None) or {}).items() if hasattr(f, "names")}
    for start in range(0, len(data), 256):
        table = needed[start : start + 256]
        for index in range(table.num_rows):
            cells = {column: table.column(column)[index] for column in table.column_names}
            yield take_row(f"{name}: row {start + index + 1}", names, cells, labels)


def _load(name: str, split: str | None) -> Any:
    repository, _, revision = name.partition("@")
    asked = {"split": split} if split else {}
    try:
        import datasets
    except ImportError as error:
        cause = f"{name}: the package 'datasets' cannot be imported ({reason_of(error)})"
        raise DataError(cause, "Type: pip install -U datasets") from error
    try:
        return datasets.load_dataset(repository, revision=revision or None, **asked)
    # The widest net on purpose: `datasets` passes on errors of half a dozen libraries, and none of them is a fault of
    # ours.
    except Exception as error:
        if ran_out_of_memory(error):
            raise
        if any(isinstance(part, OSError) and part.errno in (errno.ENOSPC, errno.EDQUOT) for part in chain(error)):
            fix = "Make room in the Hub's cache, or point HF_HOME at another disk"
            raise ResourceError(f"{name}: the disk is full ({reason_of(error)})", fix) from error
        raise DataError(
            f"{name}: cannot load it from the Hub ({type(error).__name__}: {reason_of(error)})", _fix(error, name)
        ) from error


def _fix(error: Exception, name: str) -> str:
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    causes = tuple(chain(error))  # `datasets` raises one of its own from the Hub's
    status = http_status(error)
    # an unknown split is a bare ValueError of `datasets`, so here its words must do
    if isinstance(error, ValueError) and "split" in str(error).lower():
        return "There is no such split: choose one of those listed (--split NAME)"
    if isinstance(error, ImportError):  # of what it decodes with
        return "Install the package that it names, or give the path of a local file"
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        return f"HF_HUB_OFFLINE is set: unset it, or give the path of a local file instead of {name}"
    is_gated = any(isinstance(cause, GatedRepoError) for cause in causes)
    is_far = is_connection_error(error) or any(isinstance(cause, LocalEntryNotFoundError) for cause in causes)
    # FileNotFoundError: `datasets`' own, of no such data set, or of one without data files
    unknown = (RepositoryNotFoundError, RevisionNotFoundError, FileNotFoundError)
    # a name that is not there is answered by 401, too: the Hub does not tell it from a private one
    if not (is_gated or is_far) and (status == 404 or any(isinstance(cause, unknown) for cause in causes)):
        return "Check the name (owner/name) and the revision; for a private data set set HF_TOKEN; for a local file check its path"
    if is_gated or status in (401, 403):
        return "Accept the terms on its page on huggingface.co and set HF_TOKEN"
    if is_far:
        return "Check the network; without one, give the path of a local file, or sample"
    return "Download its files and give their path"
