"""The page's lists: the five figures that one wants first, what a run cost, and what it takes to do it again."""

from __future__ import annotations

from collections.abc import Mapping

from florilegium.errors import counted
from florilegium.evaluation.headline import few_rows
from florilegium.evaluation.table import lookup, written
from florilegium.report.run_reader import RunRecord


def cards(facts: RunRecord) -> list[tuple[str, str, str]]:
    """Five figures at most: (name, value, note). All others are in the table and under Cost."""
    m, e = facts.manifest, facts.evaluation
    listed = [
        _loss(facts),
        ("tag F1", written(lookup(e, "tuned.written_tags.micro_f1"), ".3f", short=True), _of_tags(e)),
        (
            "copies",
            written(lookup(e, "tuned.copies.copied"), "share", short=True),
            "8 words in a row, the same as in a training row",
        ),
        (
            "forgotten",
            written(lookup(e, "forgetting.change"), "+.3f", short=True),
            "loss on general text: change (below 0: nothing forgotten)",
        ),
        ("time", duration(m.get("elapsed_seconds")), _steps_and_memory(m)),
    ]
    return [card for card in listed if card[1]]


def _loss(facts: RunRecord) -> tuple[str, str, str]:
    """The held-out loss; where the run was evaluated, without what is the same in every row."""
    tuned, base = (lookup(facts.evaluation, f"{side}.parts.words.loss") for side in ("tuned", "base"))
    if found := written(tuned, ".3f", short=True):
        before = written(base, ".3f", short=True)
        return "held-out loss of the words", found, f"{before} by the base" if before else ""
    return ("held-out loss", *_held_out_loss(facts))


def _held_out_loss(facts: RunRecord) -> tuple[str, str]:
    """Of the adapter that was kept, and before training."""
    before, after = (number(facts.manifest.get(name), ".3f") for name in ("eval_loss_before", "eval_loss"))
    return after, f"{before} before" if before else ""


def loss_sentence(facts: RunRecord) -> str:
    """What stands under the curves."""
    after, before = _held_out_loss(facts)
    return f"Held-out loss of the adapter that was kept: {after}{before and ', '}{before}." if after else ""


def _of_tags(evaluation: Mapping[str, object]) -> str:
    """The best baseline's value, or, of an earlier version, that of the most frequent tags; and whether there were enough
    rows for either to mean something."""
    best = lookup(evaluation, f"controls.baselines.{lookup(evaluation, 'baseline_comparison.best')}")
    value, name = lookup(best, "micro_f1.value"), lookup(best, "name")
    if best is None:
        value, name = lookup(evaluation, "controls.frequent_tags.micro_f1.value"), "always naming frequent tags"
    beside = f"{value:.3f} by {name}" if isinstance(value, float) else ""
    return "; ".join(note for note in (beside, few_rows(evaluation)) if note)


def _steps_and_memory(manifest: Mapping[str, object]) -> str:
    steps = manifest.get("steps")
    memory = gibibytes(manifest.get("peak_memory_bytes"))
    told = (counted(steps, "step") if isinstance(steps, int) else "", f"peak memory {memory}" if memory else "")
    return ", ".join(note for note in told if note)


def cost(facts: RunRecord) -> list[tuple[str, str]]:
    m = facts.manifest
    forecast = m.get("forecast_bytes")
    trained, total = m.get("trained_parameters"), m.get("total_parameters")
    share = ""
    if isinstance(trained, int) and isinstance(total, int) and total:
        share = f"{trained:,} of {total:,} ({100 * trained / total:.3f}%)"
    lines = [
        ("time", duration(m.get("elapsed_seconds"))),
        ("tokens", number(m.get("tokens"), ",.0f")),
        ("tokens/s", number(m.get("tokens_per_second"), ",.0f")),
        ("peak memory", gibibytes(m.get("peak_memory_bytes"))),
        ("predicted memory", gibibytes(forecast)),
        ("device", str(m.get("device", ""))),
        ("parameters trained", share),
    ]
    return [line for line in lines if line[1]]


def reproduce(facts: RunRecord) -> list[tuple[str, str]]:
    m = facts.manifest
    libraries = m.get("libraries")
    known = ", ".join(f"{name} {version}" for name, version in libraries.items()) if isinstance(libraries, dict) else ""
    lines = [
        ("florilegium", str(m.get("version", ""))),
        ("python", str(m.get("python", ""))),
        ("libraries", known),
        ("seed", str(m.get("seed", ""))),
    ]
    return [line for line in lines if line[1]]


def digests(facts: RunRecord) -> list[tuple[str, str]]:
    names = {"data": "data.digest", "base": "base.digest", "tokenizer": "base.tokenizer_digest"}
    lines = [(f"{name}, sha256", str(lookup(facts.manifest, path) or "")) for name, path in names.items()]
    return [line for line in lines if line[1]]


def number(value: object, style: str) -> str:
    return f"{value:{style}}" if isinstance(value, (int, float)) and not isinstance(value, bool) else ""


def gibibytes(value: object) -> str:
    return f"{value / 2**30:.2f} GiB" if isinstance(value, (int, float)) else ""


def duration(value: object) -> str:
    if not isinstance(value, (int, float)):
        return ""
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
