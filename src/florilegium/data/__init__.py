"""The first room: rows in, checked one by one, and the template that makes text of them and Quotes of text.

In reading order: `quote` (what a row is), `literals` and `template` (row to text and back), `found`, `lines`, `json_array`,
`json_rows`, `tables`, `hub` (the kinds of files), `sources` (which of them DATA means), `read` (the checks), `split`,
`overview`.
"""

from __future__ import annotations

from .found import Problem
from .lines import MAX_ROW_BYTES
from .overview import describe, is_broken
from .quote import Quote, Value
from .read import Rows, digest_of, read_rows
from .sources import SAMPLE, looks_like_path
from .split import split_rows
from .template import DEFAULT_TEMPLATE, Template

__all__ = [
    "DEFAULT_TEMPLATE",
    "MAX_ROW_BYTES",
    "SAMPLE",
    "Problem",
    "Quote",
    "Rows",
    "Template",
    "Value",
    "describe",
    "digest_of",
    "is_broken",
    "looks_like_path",
    "read_rows",
    "split_rows",
]
