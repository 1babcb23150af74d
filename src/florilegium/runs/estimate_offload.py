"""What comes from main memory where the weights of a base's blocks lie there (`fast/host_blocks.py`): how much, and how
long its copies take on the card's link, below which no step falls.

The link is the one that the card's data sheet states, and the share of it that was measured: 55 of the 63 GB/s of PCI
Express 5 (H200, docs/benchmarks.md)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from florilegium.model.gpus import Gpu
from florilegium.model.memory_plan import MemoryPlan, ModelShape

LINK_SHARE = 0.87


@dataclass(frozen=True)
class Streamed:
    """`host_bytes` of pinned main memory, the weights of all blocks; of them `copied_bytes` are copied in each pass;
    seconds of the copies of a pass and of a mean step, and the tokens a second that these allow at most. None where the
    link is not known."""

    host_bytes: int
    copied_bytes: int
    pass_seconds: float | None
    step_seconds: float | None
    tokens_per_second: float | None

    @classmethod
    def of(cls, shape: ModelShape, plan: MemoryPlan, card: Gpu | None, steps: Sequence[int]) -> Streamed | None:
        """Of steps of these many tokens; None where nothing is copied."""
        copied = plan.offloaded * shape.host_block
        if not shape.host_block:
            return None
        host = shape.num_layers * shape.host_block
        if card is None or card.link is None:
            return cls(host, copied, None, None, None)
        one_way = copied / (card.link * 1e9 * LINK_SHARE)
        # there and back for each micro-batch; how many a step has follows from the largest that the plan holds
        mean = 2 * one_way * sum(math.ceil(tokens / plan.tokens) for tokens in steps) / len(steps)
        return cls(host, copied, one_way, mean, sum(steps) / len(steps) / mean if mean else None)
