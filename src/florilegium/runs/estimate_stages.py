"""What each of several cards will take, for `florilegium estimate --gpus N` and `train --dry-run --gpus N`.

    a copy each     as on one card, with the longest share of each step
    a pipeline      the plan that each stage makes of its own card (`training/stage_memory.py`), from shapes alone

The time of a pipeline's step is its slowest stage's, and the wait for the first micro-batch to come through: nobody has
measured it yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from florilegium.config import TrainConfig
from florilegium.errors import ResourceError, UsageError
from florilegium.model import Stage
from florilegium.model.gpus import Gpu
from florilegium.model.memory_plan import MemoryPlan, ModelShape, fill_memory, plan_cost
from florilegium.model.skeleton import Skeleton
from florilegium.model.stage_plan import StageSizes, plan_stages
from florilegium.runs.rates import product_share
from florilegium.training.micro_batches import MicroBatchCost
from florilegium.training.stage_memory import StepTokens, fill_stage, in_flight, micro_batch_lengths

NO_LIMIT = 1 << 60


@dataclass(frozen=True)
class Cards:
    """How many share the work, the stages of a pipeline (none: each has a copy), and the bytes that each needs."""

    number: int
    stages: tuple[Stage, ...]
    needed: tuple[int, ...]

    def to_json(self) -> dict[str, object]:
        return {
            "number": self.number,
            "parallel": "pipeline" if self.stages else "data",
            "stages": [str(stage) for stage in self.stages],
            "needed_bytes": list(self.needed),
        }


@dataclass(frozen=True)
class FusedStage:
    """A stage as its plan reads it, and the plan."""

    shape: ModelShape
    plan: MemoryPlan


def stages_on(config: TrainConfig, gpus: int, room: int) -> tuple[Stage, ...]:
    """Those of `gpus` processes whose cards have `room` bytes each (0: not known), or none. Raises UsageError,
    ResourceError."""
    if gpus < 1:
        raise UsageError(f"--gpus is {gpus}", "It takes the number of GPUs to train on, 1 or more")
    if gpus == 1 and config.parallel == "pipeline":
        raise UsageError("--parallel pipeline spreads the base over several processes, and this is one", "Add --gpus N")
    return plan_stages(config, gpus, room)


def fused_stages(
    skeleton: Skeleton, shape: ModelShape, stages: Sequence[Stage], tokens: StepTokens, memory: str, available: int
) -> list[FusedStage]:
    """The plans of all stages, with micro-batches of the size that all can take. Where one finds none that fits, its most
    economical."""
    cost = MicroBatchCost.fused(skeleton.width, reads_int8=shape.reads_int8)
    shapes = [in_flight(_shape_of(skeleton, shape, s), stages, n, tokens, cost) for n, s in enumerate(stages)]
    try:
        most = min(
            fill_stage(own, stages, rank, tokens, memory, available, cost)[0].tokens for rank, own in enumerate(shapes)
        )
        budget = available
    except ResourceError:
        most, budget, memory = min(micro_batch_lengths(tokens, len(stages), cost)), NO_LIMIT, "lean"
    return [FusedStage(own, plan) for own in shapes if (plan := fill_memory(own, most, budget, memory))]


def _shape_of(skeleton: Skeleton, shape: ModelShape, stage: Stage) -> ModelShape:
    """The part of a whole model's shape that a stage holds."""
    share = len(stage) / shape.num_layers
    embedding = 2 * shape.vocab_size * shape.width
    ends = embedding if stage.has_embedding or stage.has_head else 0
    return replace(
        shape,
        base_bytes=round((shape.base_bytes - embedding) * share) + ends,
        num_layers=len(stage),
        vocab_size=shape.vocab_size if stage.has_head else 0,
        adapter_parameters=round(shape.adapter_parameters * share),
    )


def plain_stages(skeleton: Skeleton, config: TrainConfig, stages: Sequence[Stage]) -> tuple[int, ...]:
    """The least that stages of the model's own modules take, activations computed again."""
    sizes = StageSizes.of(skeleton, config)
    return tuple(sizes.bytes(stage) for stage in stages)


def pipeline_seconds(
    skeleton: Skeleton, card: Gpu | None, stages: Sequence[FusedStage], tokens: StepTokens
) -> float | None:
    """Seconds of a mean step; None on a card of which only the memory is known, or without fused blocks."""
    if card is None or card.tflops is None or not stages:
        return None
    slowest = max(stages, key=lambda stage: stage.shape.num_layers)
    share = slowest.shape.num_layers / skeleton.num_layers
    cost = MicroBatchCost.fused(skeleton.width, reads_int8=slowest.shape.reads_int8)
    passes = 0.0
    for step, length in zip(tokens.steps, micro_batch_lengths(tokens, len(stages), cost), strict=True):
        count = cost.count(step, len(stages), min(tokens.limit, slowest.plan.tokens))
        each = min(length, slowest.plan.tokens)
        passes += (count + len(stages) - 1) * plan_cost(slowest.shape, [each], slowest.plan) * share
    rate = card.tflops * 1e12 * product_share(skeleton.width)
    return passes / len(tokens.steps) * 2 * skeleton.product_parameters / rate
