"""Into how many micro-batches a pipeline cuts a step.

With M of them the first stage is idle for the time of S - 1, so a step of T tokens takes (M + S - 1) (T / M + cost), where
the cost of a micro-batch is in tokens' passes: the shortest is at M = sqrt((S - 1) T / cost). The fused blocks have a
floor besides: a pass of fewer tokens than Python needs to launch its kernels takes no less time."""

from __future__ import annotations

import math
from dataclasses import dataclass

# Of the model's own modules: kernels started, the base's weights dequantised again.
PLAIN_COST = {"cuda": 490, "cpu": 32}
# Of the fused blocks, as `memory_plan.plan_cost` counts a piece: 150, and reading the weights as they are stored or
# dequantising them.
FUSED_COST = {True: 180, False: 490}
# A pass of bloom-7b1 is launched in the time of so many tokens' work (75 ms, `cuda_graph.py`; one H100): whatever the
# number of blocks, since both go with it. A token's work goes with the width's square, the launches do not.
LAUNCH_TOKENS, LAUNCH_WIDTH = 1660, 4096


@dataclass(frozen=True)
class MicroBatchCost:
    """`tokens`: what one more micro-batch costs, in tokens' passes. `least`: fewer tokens than these take no less time."""

    tokens: int
    least: int = 1

    @classmethod
    def plain(cls, device_type: str) -> MicroBatchCost:
        return cls(PLAIN_COST[device_type])

    @classmethod
    def fused(cls, width: int, *, reads_int8: bool) -> MicroBatchCost:
        return cls(FUSED_COST[reads_int8], max(1, round(LAUNCH_TOKENS * (LAUNCH_WIDTH / width) ** 2)))

    def count(self, step_tokens: int, num_stages: int, most: int) -> int:
        """How many make a step of `step_tokens` shortest, none of more than `most` tokens."""
        fastest = round(math.sqrt((num_stages - 1) * step_tokens / self.tokens))
        return max(1, min(fastest, step_tokens // self.least), math.ceil(step_tokens / most))
