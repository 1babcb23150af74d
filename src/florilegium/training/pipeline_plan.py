"""A pipeline whose stages are planned (`model/stage_plan.py`): whether each of them has something to train, whether its
activations fit, and which process holds what, in words."""

from __future__ import annotations

from collections.abc import Sequence

from florilegium.config import TrainConfig
from florilegium.errors import UsageError
from florilegium.model import LoadedModel, Stage
from florilegium.model.families import packs
from florilegium.model.stage_plan import KEPT_PER_WIDTH


def check_adapter(loaded: LoadedModel, stages: Sequence[Stage]) -> None:
    """Raises UsageError where a stage has no LoRA on its blocks: its process would have nothing to train."""
    if not stages:
        return
    assert packs(loaded.family), "the plan refused others"
    blocks = list(loaded.family.blocks(loaded.model))
    for stage in stages:
        if not any(p.requires_grad for block in blocks[stage.first : stage.last] for p in block.parameters()):
            raise UsageError(
                f"--parallel pipeline: blocks {stage} have no LoRA, so one process would train nothing",
                "Choose --target-modules of every block, or start fewer processes",
            )


def keeps_activations(config: TrainConfig, stages: Sequence[Stage], width: int, tokens: int, room: int) -> bool:
    """Whether every stage can keep what its micro-batches need for the backward pass; else it is computed again. `tokens`
    are those of the longest step, `room` the bytes that the GPU with the least to spare has left (0: not known)."""
    if config.memory != "auto" or not room:
        return config.memory != "lean"
    # The first stage waits with as many micro-batches as there are stages, which may be the whole step.
    return max(map(len, stages)) * tokens * KEPT_PER_WIDTH * width < room


def describe_stages(stages: Sequence[Stage], chains: int = 1) -> str:
    """Which process holds what, for the run's first lines."""
    held = []
    for number, stage in enumerate(stages):
        ends = [name for name, here in (("embedding", stage.has_embedding), ("head", stage.has_head)) if here]
        ranks = " and ".join(str(number + chain * len(stages)) for chain in range(chains))
        held.append(f"{ranks}: blocks {stage}" + "".join(f" and the {name}" for name in ends))
    kind = "a pipeline" if chains == 1 else f"{chains} pipelines, which share the rows of a step,"
    return f"{kind} of {len(stages)} processes, each with blocks of the base: {'; '.join(held)}"
