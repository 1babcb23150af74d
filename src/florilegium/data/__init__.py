"""The first room: rows in, checked one by one, and the template that makes text of them and Quotes of text.

In reading order: `quote` (what a row is), `template` (row to text and back), `sources` (which files DATA means:
`folders`, `split_files`, `hub`), the readers (`unpack`, `lines`, `csv_rows`, `json_rows`, `text_rows`, `arrow_rows`),
`columns` (which column is the text and which the tags), `read` (the checks), `near_duplicates`, `split`, `statistics`,
`quality`."""

from __future__ import annotations

from florilegium.data.finding_sentences import finding_sentences
from florilegium.data.lines import MAX_ROW_BYTES
from florilegium.data.mojibake import is_broken, is_broken_text, mend
from florilegium.data.near_duplicates import clusters, fold, near_pairs
from florilegium.data.quality import examine, report_on
from florilegium.data.quote import Quote, Value
from florilegium.data.raw_rows import Problem
from florilegium.data.read import read_rows, read_rows_of
from florilegium.data.rows import Rows, digest_of, reading_sentences
from florilegium.data.sources import SAMPLE, looks_like_path
from florilegium.data.split import SPLIT_BY, Split, count_leaks, make_split, split_by_config, split_rows
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
    "read_rows_of",
    "reading_sentences",
    "report_on",
    "split_by_config",
    "split_rows",
]
