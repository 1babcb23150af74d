"""The first room: rows in, checked one by one, and the template that makes text of them and Quotes of text.

In reading order: `quote` (what a row is), `literals` and `template` (row to text and back), `found`, `lines`,
`json_array`, `json_rows`, `tables`, `hub` (the kinds of files), `sources` (which of them DATA means), `encoding`,
`read` (the checks), `near` (near-duplicates), `split`, `overview`, `doctor`."""

from __future__ import annotations

from florilegium.data.lines import MAX_ROW_BYTES
from florilegium.data.mojibake import is_broken, is_broken_text, mend
from florilegium.data.near_duplicates import clusters, fold, near_pairs
from florilegium.data.quality import examine, finding_sentences, report_on
from florilegium.data.quote import Quote, Value
from florilegium.data.raw_rows import Problem
from florilegium.data.read import Rows, digest_of, read_rows
from florilegium.data.sources import SAMPLE, looks_like_path
from florilegium.data.split import SPLIT_BY, Split, count_leaks, make_split, split_rows
from florilegium.data.statistics import describe
from florilegium.data.template import DEFAULT_TEMPLATE, Template

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
