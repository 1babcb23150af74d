"""How long a step takes on a card that is known by its data sheet, or on this processor: operations by what products
reach there.

Measured on H100s (docs/benchmarks.md, by size of the model); on other cards the same share of their stated peak is
taken, which nobody has measured. The processor is measured when it is asked."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import torch

from florilegium.config.sampling import SamplingSettings
from florilegium.model.gpus import Gpu
from florilegium.model.memory_plan import MemoryPlan, ModelShape, plan_cost
from florilegium.runs.estimate_generation import BANDWIDTH_SHARE
from florilegium.runs.estimate_offload import Streamed
from florilegium.runs.samples import SAMPLE_TOKENS

# Of a card's dense peak, what the products of a step reach with all else that it does, by the model's width. Between
# two widths it is interpolated.
SHARES = ((1024, 0.41), (2048, 0.58), (2560, 0.60), (4096, 0.69))
# The same of other families' fused layers, at 16 quotes a step of an H200.
LAYER_SHARES = ((1024, 0.105), (2048, 0.215), (4096, 0.37))
PLAIN_SHARE = 0.25  # of BLOOM without the fused blocks
CPU_SHARE = 0.6  # of what a float32 product alone reaches on this processor
# The same in 16 bits, whose products are several times as fast, by width: of the demo model, SmolLM2-135M and
# Gemma-3-270m, Qwen2.5-0.5B.
CPU_SHARES_16 = ((256, 0.26), (640, 0.38), (896, 0.5))
# A token of each text costs as if there were so many more: weights are read, and little is done with them.
READING_ROWS = 6
VERDICT_TOKENS = SamplingSettings().max_new_tokens
TRIALS = 8  # the first ones warm it up


class ModelSizes(Protocol):
    """What is asked of a model: of its `Skeleton`, or of one that is loaded (`plan_time.py`)."""

    @property
    def width(self) -> int: ...
    @property
    def product_parameters(self) -> int: ...
    def base_bytes(self, bits: int) -> int: ...


def product_rate(
    model: ModelSizes, card: Gpu | None, *, fused: bool, layers: bool = False, dtype: torch.dtype = torch.float32
) -> float | None:
    """Operations a second that the products of a run reach, with all else that it does; None on a card of which only the
    memory is known. The processor (no card) is measured, in the run's `dtype`. `layers`: those of another family are
    fused."""
    if card is None:
        share = CPU_SHARE if dtype == torch.float32 else product_share(model.width, CPU_SHARES_16)
        return processor_rate(model.width, dtype) * share
    if card.tflops is None:
        return None
    share = product_share(model.width) if fused else product_share(model.width, LAYER_SHARES) if layers else PLAIN_SHARE
    return card.tflops * 1e12 * share


def step_seconds(
    model: ModelSizes,
    rate: float,
    steps: Sequence[int],
    shape: ModelShape | None,
    plan: MemoryPlan | None,
    streamed: Streamed | None = None,
) -> float:
    """Seconds of a mean step of these many tokens at this `product_rate`. `shape` and `plan` are those of the fused
    blocks, None without them; a step takes no less than what is `streamed` from main memory."""
    per_pass = 2 * model.product_parameters
    if shape is None or plan is None:
        return 2 * per_pass * sum(steps) / len(steps) / rate
    products = plan_cost(replace(shape, host_block=0), steps, plan) / len(steps) * per_pass / rate
    return max(products, streamed.step_seconds or 0) if streamed else products


def beside_seconds(
    model: ModelSizes,
    card: Gpu | None,
    rate: float,
    evaluations: int,
    held_out: float,
    texts: int,
    bits: int,
    streamed: Streamed | None = None,
) -> float:
    """Seconds of what a run does beside its steps: `held_out` tokens forward in each of its evaluations, with three
    samples, and at the end as many `texts` for the verdict. Each token of them takes a pass of what is `streamed`."""
    per_token = 2 * model.product_parameters / rate
    reading = (
        model.base_bytes(bits) / (card.bandwidth * 1e9 * BANDWIDTH_SHARE[bits])
        if card is not None and card.bandwidth
        else 0.0
    )
    if streamed is not None and streamed.pass_seconds is not None:
        reading = max(reading, streamed.pass_seconds)
    samples, verdict = (
        tokens * max(reading, (rows + READING_ROWS) * per_token)
        for rows, tokens in ((3, SAMPLE_TOKENS), (texts, VERDICT_TOKENS if texts else 0))
    )
    return evaluations * (held_out * per_token + samples) + verdict


def product_share(width: int, shares: Sequence[tuple[int, float]] = SHARES) -> float:
    """Of a card's dense peak, what a step's products reach for a model of this width."""
    below = max((point for point in shares if point[0] <= width), default=shares[0])
    above = min((point for point in shares if point[0] >= width), default=shares[-1])
    if above[0] == below[0]:
        return below[1]
    return below[1] + (above[1] - below[1]) * (width - below[0]) / (above[0] - below[0])


def processor_rate(width: int, dtype: torch.dtype) -> float:
    """Operations a second of a product of this width in `dtype` on this processor: the best of a few."""
    rows_TW, weight_WF = (torch.ones(shape, dtype=dtype) for shape in ((256, width), (width, 4 * width)))
    best = math.inf
    for _ in range(TRIALS):
        start = time.perf_counter()
        rows_TW @ weight_WF
        best = min(best, time.perf_counter() - start)
    return 2 * 256 * 4 * width**2 / best
