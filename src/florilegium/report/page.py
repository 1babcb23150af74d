"""report.html: what a run did, on one page that opens from a disk, on a phone, in the dark, in ten years.

No script, no network, no other file: the page's own policy (CSP) forbids them, and names the one style sheet by its
hash. Everything that comes from a run, its rows, its name or its path is text, and Jinja puts it there as text
(autoescape); no value becomes markup but the curves, which `svg_charts.py` makes of numbers."""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from florilegium.data import finding_sentences
from florilegium.data.data_report import Findings
from florilegium.errors import counted
from florilegium.evaluation import spread_rows
from florilegium.evaluation.table import Cells, lookup, table
from florilegium.report.loss_plot import write_loss_plot
from florilegium.report.page_lists import cards, cost, digests, loss_sentence, reproduce
from florilegium.report.quote_cards import prompt_cards
from florilegium.report.run_reader import RunRecord, read_run
from florilegium.report.svg_charts import Curve, chart
from florilegium.storage.atomic_files import TRAINING, Remedy, write_text
from florilegium.storage.run_directory import RunDirectory

HERE = Path(__file__).parent
MOST_CLUSTERS = 3


def write_report(directory: Path, remedy: Remedy = TRAINING) -> Path:
    """Writes report.html and loss.png of the run in `directory` anew, and returns the page's path.

    Raises UsageError for a folder that is no run, ResourceError when the disk refuses.
    """
    facts = read_run(directory)
    write_loss_plot(facts, remedy)
    path = RunDirectory(directory).report
    write_text(path, run_page(facts), remedy)
    return path


def run_page(facts: RunRecord) -> str:
    """report.html as text."""
    return render("run.html.jinja", **_run_values(facts))


def render(template: str, **values: object) -> str:
    """A page with our style sheet and the policy that allows nothing else."""
    style = (HERE / "style.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return _environment().get_template(template).render(style=Markup(style), policy=policy, **values) + "\n"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["plain"] = plain
    return environment


def plain(value: object) -> str:
    """Text without control characters; lone surrogates, which UTF-8 cannot hold, among them."""
    return "".join(c if c == "\n" or c.isprintable() else " " for c in str(value))


def _run_values(facts: RunRecord) -> dict[str, object]:
    evaluation = facts.evaluation
    return {
        "name": facts.name,
        "facts": facts,
        "finished": facts.is_finished,
        "verdict": facts.verdict,
        "cards": cards(facts),
        "charts": charts([("", facts)]),
        "loss_sentence": loss_sentence(facts),
        "tables": _safe_table(evaluation),
        "interval": evaluation.get("interval", ""),
        "compared": lookup(evaluation, "baseline_comparison.sentence") or "",
        "forgetting": lookup(evaluation, "forgetting.sentence") or "",
        "spread": _safe_spread(evaluation),
        "selection": lookup(evaluation, "selection.sentence") or "",
        "instrument": _instrument(evaluation),
        "closest": _closest(evaluation),
        "evaluate_command": f"florilegium evaluate {shlex.quote(str(facts.directory))} --base",
        "prompts": prompt_cards(facts.samples, facts.kept_step),
        "kept_step": facts.kept_step,
        "status": _status(facts),
        "resume_command": f"florilegium resume {shlex.quote(str(facts.directory))}",
        "sides": _sides(facts.data),
        "findings": _findings(facts.data),
        "clusters": _clusters(facts.data),
        "cost": cost(facts),
        "reproduce": reproduce(facts),
        "digests": digests(facts),
        "train_command": f"florilegium train --config {shlex.quote(str(facts.directory / 'config.yaml'))} --output runs/again",
        "config": {key: value for key, value in facts.config.items() if value is not None},
    }


def _status(facts: RunRecord) -> str:
    """Whether the run is finished; where it stopped, at which step."""
    if facts.is_finished:
        return "finished"
    last = max((step for step, _ in facts.series("loss")), default=0)
    planned = facts.manifest.get("planned_steps")
    return f"stopped at step {last:.0f}" + (f" of {planned:,}" if isinstance(planned, int) else "")


def charts(runs: list[tuple[str, RunRecord]]) -> list[Markup]:
    """The four curves, of one run or of several in one frame; `runs` are (what to call it, its facts). Several have a
    colour each, and their training losses are dashed."""
    many = len(runs) > 1

    def named(what: str, name: str) -> str:
        return f"{what} {name}".strip()

    losses = [
        Curve(named("training", n), f.series("loss"), colour=i if many else None, dashed=many)
        for i, (n, f) in enumerate(runs)
    ]
    evaluations = [
        Curve(named("held out", n), f.series("eval_loss", f.evaluations), dots=True, colour=i if many else None)
        for i, (n, f) in enumerate(runs)
    ]
    gigabytes = [Curve(n, [(x, y / 2**30) for x, y in f.series("peak_memory_bytes")]) for n, f in runs]
    drawn = [
        chart("Loss", [*losses, *evaluations], "per token"),
        chart("Learning rate", [Curve(n, f.series("learning_rate")) for n, f in runs], from_zero=True),
        chart("Speed", [Curve(n, f.series("tokens_per_second")) for n, f in runs], "tokens/s", from_zero=True),
        chart("Peak memory", gigabytes, "GiB", from_zero=True),
    ]
    return [svg for svg in drawn if svg]


def _safe_table(evaluation: Mapping[str, object]) -> Mapping[str, Sequence[Cells]]:
    """The evaluation's table, or none of it where the file is not what `evaluate` writes."""
    try:
        return table(evaluation)
    except (TypeError, ValueError, KeyError, AttributeError):
        return {}


def _safe_spread(evaluation: Mapping[str, object]) -> list[tuple[str, str, str, str]]:
    try:
        return spread_rows(evaluation)
    except (TypeError, ValueError, KeyError):
        return []


def _instrument(evaluation: Mapping[str, object]) -> str:
    """How well the search for copies finds what was planted."""
    found = [lookup(evaluation, f"controls.copies_instrument.{key}_found") for key in ("planted", "shuffled")]
    shares = [share for share in found if isinstance(share, (int, float))]
    if len(shares) < len(found):
        return ""
    planted, shuffled = (f"{100 * share:.0f}%" for share in shares)
    return f"The search for copies found {planted} of planted training rows, and {shuffled} with their words shuffled."


def _closest(evaluation: Mapping[str, object]) -> list[tuple[str, str]]:
    """(text, what it shares with which training row), the closest first."""
    rows = lookup(evaluation, "tuned.copies.closest")
    try:
        return [
            (row["text"], f"{row['longest_run']} words in a row; nearest: {row['nearest'] or 'none'}")
            for row in (rows if isinstance(rows, list) else [])
        ]
    except (TypeError, KeyError):
        return []


def _findings(data: Mapping[str, object]) -> list[tuple[str, str]]:
    try:
        found = finding_sentences(Findings.from_json(data["findings"])) if "findings" in data else []
        return [(name, what) for name, what in found if not what.startswith("0 pairs")]
    except (ValueError, IndexError):  # data.json may be of another hand
        return []


def _sides(data: Mapping[str, object]) -> str:
    """How many rows went where, and how many near-duplicates stand on both sides."""
    names = {
        "training_rows": "to train on",
        "held_out_rows": "held out",
        "validation_rows": "of them to choose the best step",
        "set_aside_rows": "left out as near-duplicates of both sides",
    }
    counts = [f"{data[key]:,} {what}" for key, what in names.items() if isinstance(data.get(key), int) and data[key]]
    leaks = data.get("leaks")
    by_whom = leaks.items() if isinstance(leaks, dict) else ()
    told = [f"split by {by}: {counted(count, 'near-duplicate pair')} across train and test" for by, count in by_whom]
    return "; ".join([", ".join(counts), *told]) if counts else ""


def _clusters(data: Mapping[str, object]) -> list[list[tuple[str, str]]]:
    shown = lookup(data, "findings.near_duplicates.shown")
    clusters = shown[:MOST_CLUSTERS] if isinstance(shown, list) else []
    try:
        return [[(row["place"], row["text"]) for row in cluster] for cluster in clusters]
    except (TypeError, ValueError, KeyError):
        return []
