"""Whether losses per token of several runs can be set against each other: only where the same rows were held out, rendered
alike, and counted in the same tokens. The seed is among what decides that: it draws the rows that are held out."""

from __future__ import annotations

from collections.abc import Sequence

from florilegium.evaluation.table import lookup
from florilegium.report.run_reader import RunRecord

# Settings that say which rows are held out, and which of their tokens are counted.
_SETTINGS = (
    "seed", "held_out", "split_by", "validation", "held_out_file", "split", "loss_on", "template", "direction",
)  # fmt: skip
_FACTS = {"data.digest": "the rows", "base.tokenizer_digest": "the tokenizer"}


def is_per_token(metric: str) -> bool:
    """Whether the metric of this path (`evaluation/table.py`, or of a manifest) is a mean over tokens."""
    return metric.endswith(("loss", "perplexity")) or metric == "eval_loss_before"


def what_differs(runs: Sequence[RunRecord]) -> tuple[str, ...]:
    """For people, what keeps losses per token of these runs from being compared; empty where nothing does."""
    values = {name: [lookup(run.manifest, path) for run in runs] for path, name in _FACTS.items()}
    values |= {f"--{key.replace('_', '-')}": [run.config.get(key) for run in runs] for key in _SETTINGS}
    return tuple(name for name, own in values.items() if any(value != own[0] for value in own))


def sentence(same_rows: bool, differs: Sequence[str]) -> str:
    """What cannot be compared, and why; empty where all can."""
    if not same_rows:
        return "These runs were trained on different rows, so their losses and F1 cannot be compared."
    if not differs:
        return ""
    *most, last = differs
    names = f"{', '.join(most)} and {last}" if most else last
    return (
        f"Losses per token cannot be compared: the runs differ in {names}, so they are of other rows or other tokens."
    )
