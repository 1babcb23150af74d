"""How long a step takes on a card that is known by its data sheet, or on this processor: operations by what products
reach there.

Measured on H100s (docs/benchmarks.md, by size of the model); on other cards the same share of their stated peak is
taken, which nobody has measured. The processor is measured when it is asked."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import torch

from florilegium.model.gpus import Gpu
from florilegium.model.memory_plan import MemoryPlan, ModelShape, plan_cost
from florilegium.model.skeleton import Skeleton

# Of a card's dense peak, what the products of a step reach with all else that it does, by the model's width. Between
# two widths it is interpolated.
SHARES = ((1024, 0.41), (2048, 0.58), (2560, 0.60), (4096, 0.69))
PLAIN_SHARE = 0.25  # without the fused blocks
CPU_SHARE = 0.6  # of what a product alone reaches on this processor
TRIALS = 8  # the first ones warm it up


def step_seconds(
    skeleton: Skeleton, card: Gpu | None, steps: Sequence[int], shape: ModelShape | None, plan: MemoryPlan | None
) -> float | None:
    """Seconds of a mean step of these many tokens; None on a card of which only the memory is known. `shape` and `plan`
    are those of the fused blocks, None without them."""
    per_pass = 2 * skeleton.product_parameters
    tokens = sum(steps) / len(steps)
    if card is None:
        return 2 * per_pass * tokens / (processor_rate(skeleton.width) * CPU_SHARE)
    if card.tflops is None:
        return None
    peak = card.tflops * 1e12
    if shape is None or plan is None:
        return 2 * per_pass * tokens / (peak * PLAIN_SHARE)
    return plan_cost(shape, steps, plan) / len(steps) * per_pass / (peak * product_share(skeleton.width))


def product_share(width: int) -> float:
    """Of a card's dense peak, what a step's products reach for a model of this width."""
    below = max((point for point in SHARES if point[0] <= width), default=SHARES[0])
    above = min((point for point in SHARES if point[0] >= width), default=SHARES[-1])
    if above[0] == below[0]:
        return below[1]
    return below[1] + (above[1] - below[1]) * (width - below[0]) / (above[0] - below[0])


def processor_rate(width: int) -> float:
    """Operations a second of a float32 product of this width on this processor: the best of a few."""
    rows_TW, weight_WF = torch.ones(256, width), torch.ones(width, 4 * width)
    best = math.inf
    for _ in range(TRIALS):
        start = time.perf_counter()
        rows_TW @ weight_WF
        best = min(best, time.perf_counter() - start)
    return 2 * 256 * 4 * width**2 / best
