"""The evaluation as a table: one row a metric, one column a side, for the terminal and the report alike.

Each line says which way is better, so that a reader need not know the field: `lower`, `higher`, or nothing where
neither is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from florilegium.errors import counted

SHARE = "share"


@dataclass(frozen=True)
class Line:
    """A metric: where it lies in a side's object, what it is called, which way is better, how it is written. `controls`
    say where, in the whole report, the objects lie that have the metric to compare with, and what those are."""

    path: str
    name: str
    better: str = ""
    style: str = ".3f"
    controls: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Cells:
    """A line with its values filled in, as text."""

    line: Line
    base: str
    tuned: str
    control: str


_TAGS = (
    ("controls.baselines.naive_bayes", "naive Bayes"),
    ("controls.baselines.nearest_rows", "nearest rows (tf-idf)"),
    ("controls.frequent_tags", "most frequent tags"),
)
_THIRD = (*_TAGS, ("controls.own_tags", "the rows' own tags"))
_WANTED = (("controls.own_tags", "the rows' own tags"),)
_TEXTS = (("controls.held_out", "held-out rows"), ("controls.retrieved", "training rows retrieved"))
_ROWS = (("controls.training", "training rows"),)
_OWN = (("controls.held_out", "the rows' own tags"),)

LINES: Mapping[str, Sequence[Line]] = {
    "Held-out rows": (
        Line("parts.words.loss", "loss of the words", "lower"),
        Line("parts.words.perplexity", "perplexity of the words", "lower", ".2f"),
        Line("parts.words.bits_per_byte", "bits per byte of the words", "lower"),
        Line("parts.quote_words.loss", "loss of quote words", "lower"),
        Line("parts.tag_words.loss", "loss of tag words", "lower"),
        Line("parts.separator.loss", "separator (a constant)", "lower"),
        Line("parts.commas.loss", "commas between tags", "lower"),
        Line("parts.end.loss", "end-of-text", "lower"),
        Line("loss", "loss of all tokens, constants too", "lower"),
        Line("quote.loss", "quote and separator", "lower"),
        Line("tags.loss", "tags, commas and end-of-text", "lower"),
        Line("perplexity", "perplexity of all tokens", "lower", ".2f"),
        Line("bits_per_byte", "bits per byte, all tokens", "lower"),
    ),
    "Tags for held-out quotes": (
        Line("written_tags.micro_f1", "micro F1", "higher", controls=_TAGS),
        Line("written_tags.macro_f1", "macro F1", "higher", controls=_TAGS),
        Line("written_tags.precision_at_1", "precision@1", "higher", controls=_TAGS),
        Line("written_tags.precision_at_3", "precision@3", "higher", controls=_THIRD),
        Line("known_tags.average_precision", "average precision of known tags", "higher", controls=_TAGS[:2]),
        Line("known_tags.written.micro_f1", "micro F1, known tags alone", "higher"),
        Line("known_tags.at_threshold.micro_f1", "micro F1, known tags above a threshold", "higher"),
        Line("known_tags.at_threshold.precision_at_1", "precision@1, the same", "higher"),
        Line("written_tags.repeated", "rows that repeat a tag", "lower", SHARE),
        Line("written_tags.unseen", "tags that no training row has", "", SHARE, _WANTED),
        Line("relevance_by_rows.wins", "tag-quote match by tf-idf", "higher", SHARE, _OWN),
        Line("relevance_by_rows.shuffled.wins", "same with shuffled tags (control)", "", SHARE, _OWN),
        Line("relevance.lift", "tag-quote match, log-likelihood", "higher", "+.3f", _OWN),
        Line("relevance.wins", "tag-quote match, win rate", "higher", SHARE, _OWN),
        Line("relevance.shuffled.wins", "same with shuffled tags (control)", "", SHARE, _OWN),
    ),
    "Quotes for held-out tags": (
        Line("tags_first.loss.loss", "loss of the quote, its tags given", "lower"),
        Line("tags_first.format_rate", "well-formed", "higher", SHARE),
        Line("tags_first.stop_rate", "end cleanly (end-of-text)", "higher", SHARE),
        Line("tags_first.own_tags.micro_f1", "its own tags for them, micro F1", "higher"),
    ),
    "Unconditional samples": (
        Line("form.format_rate", "well-formed (quote and tags)", "higher", SHARE, _ROWS),
        Line("form.stop_rate", "end cleanly (end-of-text)", "higher", SHARE),
        Line("form.loop_rate", "repetitive", "lower", SHARE),
        Line("variety.distinct_1", "distinct-1", controls=_TEXTS),
        Line("variety.distinct_2", "distinct-2", controls=_TEXTS),
        Line("variety.distinct_3", "distinct-3", controls=_TEXTS),
        Line("copies.copied", "copies (8 words in a row)", "lower", SHARE, _TEXTS),
        Line("copies.longest_run", "longest shared run, words", "", ".2f", _TEXTS),
        Line("copies.containment", "overlap with nearest training row", "", SHARE, _TEXTS),
    ),
}


def table(report: Mapping[str, object], short: bool = False) -> dict[str, list[Cells]]:
    """The lines of each group that have a value on either side; `short` writes intervals as `0.532 ±0.053`."""
    groups: dict[str, list[Cells]] = {}
    for title, lines in LINES.items():
        cells = [_cells(report, line, short) for line in lines]
        if any(c.tuned or c.base for c in cells):
            groups[title] = [c for c in cells if c.tuned or c.base]
    change = lookup(report, "forgetting")
    if change:
        before, after = (written(lookup(change, f"{side}.loss"), ".3f", short) for side in ("before", "after"))
        what = f"{written(lookup(change, 'change'), '+.3f', short)} change"
        groups["General text (forgetting)"] = [
            Cells(Line("", "loss per token", "lower"), before, after, what),
            *_cloze(change, short),
        ]
    return groups


def _cloze(forgetting: object, short: bool) -> list[Cells]:
    found = lookup(forgetting, "cloze")
    if not found:
        return []
    before, after, change = (written(lookup(found, key), SHARE, short) for key in ("before", "after", "change"))
    what = f"{change} change; {written(lookup(found, 'chance'), SHARE)} by chance, {lookup(found, 'items')} words"
    return [Cells(Line("", "next word of four, right", "higher"), before, after, what)]


def lookup(report: object, path: str) -> object:
    """The value at `a.b.c`, or None where there is none."""
    for key in path.split("."):
        report = report.get(key) if isinstance(report, Mapping) else None
    return report


def written(metric: object, style: str, short: bool = False) -> str:
    """A metric as text, with its interval where it has one (`short`: half the interval's width); nothing for None.
    Where every resample gave the same, as with a single row, there is none to show: that nothing differed is not that
    nothing could."""
    if isinstance(metric, Mapping) and "value" in metric and metric["low"] == metric["high"]:
        metric = metric["value"]
    if isinstance(metric, Mapping) and "value" in metric:
        value, low, high = (_number(metric[key], style) for key in ("value", "low", "high"))
        half = _number((metric["high"] - metric["low"]) / 2, style.lstrip("+"))
        return f"{value} ±{half}" if short else f"{value} ({low} to {high})"
    return _number(metric, style) if isinstance(metric, (int, float)) else ""


def _number(value: float, style: str) -> str:
    return f"{100 * value:.1f}%" if style == SHARE else f"{value:{style}}"


def _cells(report: Mapping[str, object], line: Line, short: bool) -> Cells:
    base, tuned = (written(lookup(report.get(side), line.path), line.style, short) for side in ("base", "tuned"))
    path = line.path.removeprefix("written_tags.")  # the controls of written tags lie in an object of their own
    found = [(lookup(report, f"{where}.{path}"), what) for where, what in line.controls]
    there = [(metric, what) for metric, what in found if metric is not None]
    if len(there) > 1:  # several are read at a glance; their intervals are in the file
        there = [(metric.get("value") if isinstance(metric, Mapping) else metric, what) for metric, what in there]
    values = [(written(metric, line.style, short), what) for metric, what in there]
    control = ", ".join(f"{value} {what}" for value, what in values if value)
    return Cells(line, base, tuned, control or _tokens(report, line.path))


def _tokens(report: Mapping[str, object], path: str) -> str:
    """Over how many tokens a loss was taken: a loss of a few constants is no loss of a text."""
    where = path.removesuffix("loss")
    tokens = lookup(report, f"tuned.{where}tokens") if path.endswith("loss") else None
    return counted(tokens, "token") if isinstance(tokens, int) and tokens else ""
