"""The data doctor: what in the rows would teach the wrong thing, found before anybody trains on them.

    near duplicates     clusters of rows that say the same (`near_duplicates.py`): trained twice, or tested on what was trained
    repair              broken encoding that `--fix-encoding` mends, and what it cannot mend
    dirt                HTML, escapes that were escaped, control characters, printed lists, repeated headers (`cleaning.py`)
    tags                tags that say something about the source and not the text, sentences, signs, words for nothing, several
                        tags in one; two spellings of one tag
    authors             names with a comma or quotation marks left over from the page they were copied from
    outliers            texts far longer than the rest, rows with far more tags: Tukey's outer fence (1977), Q3 + 3 (Q3 - Q1)
    no text             rows without a single letter

Every finding says how many rows have it and where the first ten are, some say more (`data_report.py`). Nothing is
changed here and nothing dropped."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from statistics import quantiles

from florilegium.data.cell_lists import is_glued, read_printed, without_entities
from florilegium.data.cleaning import EMPTY_TAGS, has_control, has_escapes, has_html
from florilegium.data.collector import without_collector
from florilegium.data.column_values import count_words
from florilegium.data.data_report import (
    AuthorFindings,
    DataReport,
    Findings,
    Found,
    GluedTags,
    Mended,
    NearDuplicates,
    Outliers,
    Repair,
    ShownRow,
    Spellings,
    SuspiciousTags,
    TagFindings,
)
from florilegium.data.finding_sentences import shortened
from florilegium.data.mojibake import is_broken, is_broken_text, mend_quote
from florilegium.data.near_duplicates import Pair, clusters, near_pairs
from florilegium.data.quote import Quote, first_text, join_items, telling_texts
from florilegium.data.rows import Rows
from florilegium.data.split import Split, make_split
from florilegium.data.statistics import describe
from florilegium.errors import one_line

SHOWN_PLACES, SHOWN_CLUSTERS = 10, 8
LONGEST_TAG_WORDS = 5
# Goodreads, where most collections of quotes come from, keeps disputes about the source among the tags.
_ABOUT_THE_SOURCE = re.compile(
    r"attribut|investigator|unsourced|unverified|apocryph|paraphras|unknown|wrongly|fake", re.IGNORECASE
)
_GLUE = ("|", ";", "/")
_MAYBE_GLUE = (" & ", " + ", " · ", " → ", " > ", " - ", "::", ":", "\\", " ")
_TAG_WORDS = re.compile(r"[^\W_]+")

_TAG_SIGNS: dict[str, Callable[[str], bool]] = {
    "about_the_source": lambda tag: _ABOUT_THE_SOURCE.search(tag) is not None,
    "a_sentence": lambda tag: len(_TAG_WORDS.findall(tag)) > LONGEST_TAG_WORDS,
    "no_letters": lambda tag: not any(sign.isalpha() or unicodedata.category(sign) == "So" for sign in tag),
    "words_for_nothing": lambda tag: tag in EMPTY_TAGS,
    "broken_encoding": is_broken_text,
}
_AUTHOR_SIGNS: dict[str, Callable[[str], bool]] = {
    "ends_in_a_mark": lambda name: name.rstrip()[-1:] in (",", ";", ":", "-", "–", "—"),
    "quotation_marks": lambda name: any(mark in name for mark in '“”"«»'),
    "unknown": lambda name: (
        name.strip(" .,").casefold() in ("", "unknown", "anonymous", "anon", "n/a", "none", "null", "-")
    ),
    "broken_encoding": is_broken_text,
}


def examine(rows: Rows, pairs: Sequence[Pair] | None = None) -> Findings:
    """The findings on `rows`; `pairs` are those of `near_pairs` on the first column, if they are known already."""
    first = telling_texts(rows.quotes)
    main = [join_items(quote[rows.template.main_column]) for quote in rows.quotes]
    return Findings(
        near_duplicates=_near_duplicates(rows, first, near_pairs(first) if pairs is None else pairs),
        repair=_repair(rows),
        dirt=_dirt(rows),
        suspicious_tags=_suspicious_tags(rows),
        authors=_authors(rows),
        long_outliers=_outliers(rows, [count_words(text) for text in main]),
        tag_outliers=_tag_outliers(rows),
        no_text=_found(rows, [not any(map(str.isalpha, text)) for text in main]),
    )


@without_collector()
def report_on(rows: Rows, split: Split, share: float, seed: int, by: str) -> DataReport:
    """All that is known of rows before they are trained: `describe`, the sides of the split and how it leaks beside a
    random one, and `findings`. `inspect` shows it, and a run keeps it as data.json."""
    at_random = make_split(rows.quotes, share, seed, by="random", pairs=split.pairs, held_out_from=rows.held_out_from)
    return DataReport(
        **vars(describe(rows)),
        training_rows=len(split.training),
        held_out_rows=len(split.held_out),
        validation_rows=len(split.validation),
        set_aside_rows=len(split.set_aside),
        rows_of_one_mould=split.one_mould,
        split_by=by,
        leaks={by: split.leaks, "random": at_random.leaks},
        findings=examine(rows, split.pairs),
    )


def _near_duplicates(rows: Rows, texts: Sequence[str], pairs: Sequence[Pair]) -> NearDuplicates:
    groups = clusters(len(texts), pairs)
    return NearDuplicates(
        pairs=len(pairs),
        clusters=len(groups),
        rows=sum(map(len, groups)),
        largest=len(groups[0]) if groups else 0,
        shown=[[ShownRow(rows.places[i], shortened(texts[i])) for i in group[:5]] for group in groups[:SHOWN_CLUSTERS]],
    )


def _repair(rows: Rows) -> Repair:
    """What was mended, what `--fix-encoding` would mend, and what stays broken either way: a byte that was lost cannot be
    guessed."""
    broken = [quote for quote in rows.quotes if is_broken(quote)]
    mended = [mend_quote(quote) for quote in broken]
    return Repair(
        mended=rows.repaired,
        can_be_mended=sum(new != old for new, old in zip(mended, broken, strict=True)),
        still_broken_then=sum(is_broken(new) for new in mended),
        example=_first_mended(broken, mended),
    )


def _first_mended(broken: Sequence[Quote], mended: Sequence[Quote]) -> Mended | None:
    for old, new in zip(broken, mended, strict=True):
        if old != new and not is_broken(new):
            before, after = (first_text(quote) for quote in (old, new))
            return Mended(shortened(before), shortened(after))
    return None


def _suspicious_tags(rows: Rows) -> TagFindings | None:
    """For each sign, the rows that carry such a tag and the most frequent ones; and tags that are one word in several
    spellings."""
    if not rows.template.list_columns:
        return None
    column = rows.template.list_columns[0]
    lists = [list(quote[column]) for quote in rows.quotes]
    counts = Counter(tag for tags in lists for tag in tags)
    signs: dict[str, SuspiciousTags] = {}
    for name, sign in _TAG_SIGNS.items():
        suspects = {tag for tag in counts if sign(tag)}
        if name == "no_letters" and len(suspects) == len(counts):
            suspects = set()  # labels that are numbers throughout
        examples = [tag for tag, _ in counts.most_common() if tag in suspects][:5]
        carry = _found(rows, [not suspects.isdisjoint(tags) for tags in lists])
        signs[name] = SuspiciousTags(carry.rows, carry.places, len(suspects), examples)
    spellings: defaultdict[str, list[str]] = defaultdict(list)
    for tag, _ in counts.most_common():
        spellings["".join(_TAG_WORDS.findall(tag.casefold()))].append(tag)
    several = [tags for key, tags in spellings.items() if key and len(tags) > 1]
    return TagFindings(signs, _several_in_one(rows, counts, lists), Spellings(len(several), several[:5]))


def _several_in_one(rows: Rows, counts: Counter[str], lists: Sequence[list[str]]) -> GluedTags:
    """Tags that another separator glues together; those that tags may hold themselves, blanks at last, are asked about
    only where no row has two tags."""
    plain = {without_entities(tag): tag for tag in counts}
    signs = [sign for sign in _GLUE if any(sign in tag for tag in plain)]
    if not any(len(tags) > 1 for tags in lists):
        signs += _MAYBE_GLUE
    sign = next((sign for sign in signs if sign in "|;" or is_glued(counts, sign)), None)
    glued = {tag for text, tag in plain.items() if sign and sign in text}
    found = _found(rows, [not glued.isdisjoint(tags) for tags in lists])
    examples = [tag for tag, _ in counts.most_common() if tag in glued][:5]
    return GluedTags(found.rows, found.places, sign, examples)


def _dirt(rows: Rows) -> dict[str, Found]:
    """For each kind, the rows that have it in any column."""
    texts = [[join_items(value) for value in quote.values()] for quote in rows.quotes]
    found = {name: _found(rows, [any(map(sign, row)) for row in texts]) for name, sign in _DIRT.items()}
    names = {name.casefold() for name in (*rows.columns, *rows.template.columns)}
    headers = [all(text.strip().casefold() in names for text in row if text) for row in texts]
    return {**found, "repeated_header": _found(rows, headers)}


_DIRT: dict[str, Callable[[str], bool]] = {
    "html": has_html,
    "escapes": has_escapes,
    "control_characters": has_control,
    "printed_lists": lambda text: text[-1:] == "]" and read_printed(text) is not None,
}


def _authors(rows: Rows) -> AuthorFindings | None:
    """Signs of junk in the column `author`; None where there is none."""
    if not any(rows.authors):
        return None
    signs = {
        name: _found(rows, [bool(author) and sign(author) for author in rows.authors])
        for name, sign in _AUTHOR_SIGNS.items()
    }
    named = Counter(author for author in rows.authors if author)
    return AuthorFindings(
        distinct=len(named),
        rows_without=rows.authors.count(""),
        most_frequent=[(one_line(name), count) for name, count in named.most_common(5)],
        signs=signs,
    )


def _outliers(rows: Rows, sizes: Sequence[int]) -> Outliers:
    """Rows beyond the outer fence; `limit` is the fence. Fewer than 20 rows have no outliers."""
    if len(sizes) < 20:
        return Outliers(0, [], None)
    low, _, high = quantiles(sizes, n=4)
    # where most rows are of one size there is no spread to measure by: four times that size is out of the way
    limit = high + 3 * (high - low if high > low else high)
    beyond = _found(rows, [size > limit for size in sizes])
    return Outliers(beyond.rows, beyond.places, round(limit))


def _tag_outliers(rows: Rows) -> Outliers | None:
    columns = rows.template.list_columns
    return _outliers(rows, [len(quote[columns[0]]) for quote in rows.quotes]) if columns else None


def _found(rows: Rows, suspected: Sequence[bool]) -> Found:
    places = [place for place, yes in zip(rows.places, suspected, strict=True) if yes]
    return Found(len(places), places[:SHOWN_PLACES])
