"""The verdict on what was exported: how far its answers lie from the live adapter's, and whether that is near enough.

A file in 16 bits cannot answer to the last digit as the adapter on its base does: its weights were rounded once more.
How far it may lie off is stated here for each type, well above what rounding does and far below what a mistake does (a
query in the place of a key moves log-probabilities by several nats). Greedy texts may part only where the live model
was near a tie; for quantised types, which change what a model says, distances alone are judged, below 8 bits the mean one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from florilegium.export.probe import Answers, Step


@dataclass(frozen=True)
class Tolerance:
    """`largest` and `mean` distance: of logits as a share of the largest logit, or of log-probabilities in nats."""

    largest: float | None
    mean: float
    ties_only: bool = True


LOGITS = {
    "float32": Tolerance(2e-4, 2e-5), "float16": Tolerance(5e-3, 5e-4), "bfloat16": Tolerance(0.04, 4e-3),
    "int8": Tolerance(0.2, 0.02, False), "nf4": Tolerance(None, 0.1, False),
}  # fmt: skip
LOGPROBS = {
    "f32": Tolerance(0.02, 0.002), "f16": Tolerance(0.03, 0.003), "bf16": Tolerance(0.3, 0.03),
    "q8_0": Tolerance(0.6, 0.06, False), "q6_k": Tolerance(None, 0.15, False), "q5": Tolerance(None, 0.3, False),
    "q4": Tolerance(None, 0.6, False), "other": Tolerance(None, 1.0, False),
}  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """`distance` is of logits (merged) or log-probabilities in nats (GGUF). `passed` is None where nothing was run, and
    `reason` says why, or what failed."""

    passed: bool | None
    run_by: str = ""
    rows: int = 0
    rows_are: str = ""
    compared: str = ""
    largest_distance: float | None = None
    mean_distance: float | None = None
    tolerance: str = ""
    greedy_equal: int | None = None
    greedy_texts: int | None = None
    tokens_equal: int | None = None
    loss_live: float | None = None
    loss_exported: float | None = None
    reason: str = ""

    def as_json(self) -> Mapping[str, Any]:
        return {name: value for name, value in asdict(self).items() if value not in (None, "")} | {
            "passed": self.passed
        }

    def sentence(self) -> str:
        """The verdict in one line."""
        if self.passed is None:
            return f"not checked: {self.reason}"
        loss = ""
        if self.loss_live is not None and self.loss_exported is not None:
            loss = f"; held-out loss {self.loss_exported:.4f}, live {self.loss_live:.4f}"
        return (
            f"{self.run_by}: {self.compared} differ by {self.largest_distance:.2g} at most, {self.mean_distance:.2g} on "
            f"average (allowed: {self.tolerance}); greedy texts equal {self.greedy_equal} of {self.greedy_texts}{loss}"
        )


def judge_merged(live: Answers, merged: Answers, dtype: str, rows_are: str) -> Verdict:
    """Transformers on both sides: logits, loss and texts. `dtype` is what the merged weights were rounded to."""
    allowed = LOGITS[dtype]
    gaps = [(a - b).abs() for a, b in zip(live.logits, merged.logits, strict=True)]
    largest = max(float(gap.max()) for gap in gaps)
    mean = sum(float(gap.sum(dtype=torch.float64)) for gap in gaps) / sum(gap.numel() for gap in gaps)
    scale = max(float(logits.abs().max()) for logits in live.logits)
    mean_limit = allowed.mean * scale
    limit = mean_limit if allowed.largest is None else allowed.largest * scale
    equal, parted = compare_texts(live.greedy, merged.greedy, 2 * limit)
    reason = ""
    if not mean <= mean_limit or (allowed.largest is not None and not largest <= limit):  # so that a NaN fails
        reason = "its logits are not the live adapter's"
    elif parted and allowed.ties_only:
        reason = f"{parted} greedy texts diverge where the live adapter's top tokens were not tied"
    elif not abs(live.loss - merged.loss) <= mean_limit:
        reason = "its held-out loss is not the live adapter's"
    stated = f"{mean_limit:.2g} on average" if allowed.largest is None else f"{limit:.2g} and {mean_limit:.2g}"
    return Verdict(
        not reason, "Transformers", len(live.logits), rows_are, "logits", largest, mean, f"{stated} for {dtype}", equal,
        len(live.greedy), None, live.loss, merged.loss, reason,
    )  # fmt: skip


def judge_gguf(live: list[list[Step]], said: list[list[Step]], kind: str, tokens_equal: int, rows_are: str) -> Verdict:
    """Transformers on one side, llama.cpp on the other: texts, and the log-probabilities along them until they part."""
    allowed = tolerance_of(kind)
    distances = logprob_distances(live, said)
    largest, mean = max(distances, default=float("nan")), sum(distances) / max(1, len(distances))
    limit = allowed.largest if allowed.largest is not None else allowed.mean
    equal, parted = compare_texts(live, said, 2 * limit)
    reason = ""
    if tokens_equal < len(live):
        reason = f"llama.cpp reads {len(live) - tokens_equal} prompts as other tokens"
    elif not mean <= allowed.mean or (allowed.largest is not None and not largest <= allowed.largest):
        reason = "its log-probabilities are not the live adapter's"
    elif parted and allowed.ties_only:
        reason = f"{parted} greedy texts diverge where the live adapter's top tokens were not tied"
    stated = (
        f"{allowed.mean:.2g} on average" if allowed.largest is None else f"{allowed.largest:.2g} and {allowed.mean:.2g}"
    )
    return Verdict(
        not reason, "llama.cpp", len(live), rows_are, "log-probabilities", largest, mean, f"{stated} for {kind}", equal,
        len(live), tokens_equal, None, None, reason,
    )  # fmt: skip


def tolerance_of(kind: str) -> Tolerance:
    """That of a GGUF type: `q4_k_m` is judged as 4 bits are."""
    kind = kind.lower()
    return LOGPROBS.get(kind) or LOGPROBS.get("q6_k" if kind.startswith("q6") else kind[:2], LOGPROBS["other"])


def compare_texts(live: list[list[Step]], said: list[list[Step]], tie: float) -> tuple[int, int]:
    """How many texts are equal, and how many part at a token where the live model preferred its own by more than
    `tie`."""
    equal = parted = 0
    for mine, other in zip(live, said, strict=True):
        pairs = list(zip(mine, other, strict=False))
        first = next((i for i, (a, b) in enumerate(pairs) if a.token != b.token), None)
        if first is None:
            equal += len(mine) == len(other)
            parted += len(mine) != len(other)
            continue
        a, b = pairs[first]
        parted += not a.top[a.token] - a.top.get(b.token, float("-inf")) <= tie
    return equal, parted


def logprob_distances(live: list[list[Step]], said: list[list[Step]]) -> list[float]:
    """Distances of the log-probabilities of the tokens that both sides wrote, up to where their texts part."""
    distances = []
    for mine, other in zip(live, said, strict=True):
        for a, b in zip(mine, other, strict=False):
            if a.token != b.token:
                break
            if a.token in b.top:  # llama.cpp names no likelihood of an end-of-text
                distances.append(abs(a.top[a.token] - b.top[a.token]))
    return distances
