"""The first room: rows in, checked one by one, and the template that makes text of them and Quotes of text.

In reading order: `quote` (what a row is), `literals` and `template` (row to text and back), `found`, `lines`, `json_array`,
`json_rows`, `tables`, `hub` (the kinds of files), `sources` (which of them DATA means), `encoding`, `read` (the checks), `near`
(near-duplicates), `split`, `overview`, `doctor`.
"""

from __future__ import annotations

from .doctor import examine, finding_sentences, report_on
from .encoding import is_broken, is_broken_text, mend
from .found import Problem
from .lines import MAX_ROW_BYTES
from .near import clusters, fold, near_pairs
from .overview import describe
from .quote import Quote, Value
from .read import Rows, digest_of, read_rows
from .sources import SAMPLE, looks_like_path
from .split import SPLIT_BY, Split, count_leaks, make_split, split_rows
from .template import DEFAULT_TEMPLATE, Template

__all__ = [
    "DEFAULT_TEMPLATE",
    "MAX_ROW_BYTES",
    "SAMPLE",
    "SPLIT_BY",
    "Problem",
    "Quote",
    "Rows",
    "Split",
    "Template",
    "Value",
    "clusters",
    "count_leaks",
    "describe",
    "digest_of",
    "examine",
    "finding_sentences",
    "fold",
    "is_broken",
    "is_broken_text",
    "looks_like_path",
    "make_split",
    "mend",
    "near_pairs",
    "read_rows",
    "report_on",
    "split_rows",
]
