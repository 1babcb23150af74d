"""The memory plan of the fused blocks where their process holds a stage of a pipeline.

Each stage fills its own card: with its own blocks, the head where it is, and the activations of as many micro-batches as
are forward before the first comes back (1F1B: one for each stage from here to the last). The micro-batches are the same
for all, so their size is that of the stage with the least room."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from florilegium.model import LoadedModel, Stage, fast_paths
from florilegium.model.families import packs
from florilegium.model.memory_plan import (
    BLOCK_ROWS,
    InFlight,
    MemoryPlan,
    ModelShape,
    fill_memory,
    model_shape,
    plan_memory,
)
from florilegium.training.distributed import Distributed
from florilegium.training.micro_batches import MicroBatchCost


@dataclass(frozen=True)
class StepTokens:
    """Of the steps to come: their tokens, those of the longest row, and how many a micro-batch may hold."""

    steps: Sequence[int]
    longest: int
    limit: int


@dataclass(frozen=True)
class StagePlan:
    """What this stage keeps, the peaks that all stages expect, and the micro-batches: their cost and their tokens. Of a
    process that holds all blocks: what it keeps, and the tokens of its steps."""

    memory: MemoryPlan
    peaks: tuple[int, ...] = ()
    cost: MicroBatchCost | None = None
    lengths: tuple[int, ...] = ()


def plan_stage(
    loaded: LoadedModel,
    stages: Sequence[Stage],
    tokens: StepTokens,
    memory: str,
    held: int,
    budget: int,
    distributed: Distributed,
) -> StagePlan:
    """The plan within `budget` bytes of this process's card, of which the base takes `held`. All processes call it.
    Raises ResourceError where not even the most economical plan fits on it."""
    rank, family = distributed.rank % len(stages), loaded.family
    stage = stages[rank]
    assert packs(family), "the fused blocks were selected, so the family packs"
    reads_int8 = fast_paths.supports_int8_matmul(loaded)
    # one rule for all: they must cut the same micro-batches
    cost = MicroBatchCost.fused(
        loaded.base.model.config.hidden_size, reads_int8=bool(distributed.smallest(int(reads_int8)))
    )
    shape = model_shape(family, loaded.model, held, reads_int8=reads_int8, stage=stage)
    plan, lengths = fill_stage(shape, stages, rank, tokens, memory, budget, cost)
    most = distributed.smallest(plan.tokens)
    if most < plan.tokens:  # what fits with more fits with fewer, and keeps more
        refilled = fill_memory(in_flight(shape, stages, rank, tokens, cost), most, budget, memory)
        assert refilled is not None, "a smaller micro-batch takes no more"
        plan = refilled
    sizes = tuple(dict.fromkeys(length for length in lengths if length <= most))
    return StagePlan(plan, tuple(distributed.each(plan.peak)), cost, sizes)


def fill_stage(
    shape: ModelShape,
    stages: Sequence[Stage],
    rank: int,
    tokens: StepTokens,
    memory: str,
    budget: int,
    cost: MicroBatchCost,
) -> tuple[MemoryPlan, list[int]]:
    """The plan of stage `rank` by itself, and the tokens of a micro-batch of each step. Raises ResourceError."""
    lengths = micro_batch_lengths(tokens, len(stages), cost)
    shape = in_flight(shape, stages, rank, tokens, cost)
    return plan_memory(shape, lengths, budget, memory, BLOCK_ROWS.round_up(tokens.longest)), lengths


def micro_batch_lengths(tokens: StepTokens, num_stages: int, cost: MicroBatchCost) -> list[int]:
    """Tokens of the micro-batches of each step, which are of about one size."""
    least = BLOCK_ROWS.round_up(tokens.longest)  # a row is never cut
    counts = [cost.count(step, num_stages, tokens.limit) for step in tokens.steps]
    return [max(least, BLOCK_ROWS.round_up(math.ceil(s / n))) for s, n in zip(tokens.steps, counts, strict=True)]


def in_flight(
    shape: ModelShape, stages: Sequence[Stage], rank: int, tokens: StepTokens, cost: MicroBatchCost
) -> ModelShape:
    """`shape` with what stage `rank` holds at once."""
    lengths = micro_batch_lengths(tokens, len(stages), cost)
    counts = [cost.count(step, len(stages), tokens.limit) for step in tokens.steps]
    whole = max(length * count for length, count in zip(lengths, counts, strict=True))
    neighbours = (rank > 0) + (rank < len(stages) - 1)
    return replace(shape, in_flight=InFlight(len(stages) - rank, whole, neighbours, cost.least))
