"""The memory that a run will take, for `runs/estimate.py`: from shapes alone, on one card or on each of several.

Where the fused blocks run it is what their own plan computes and is held to. Elsewhere it is the usual estimate of what a
block keeps of each token (Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer Models": 34
bytes for each of its width), and said to be one. A base whose blocks lie in host memory (`--memory offload`, which a run
also takes where nothing else fits) has its plan and, in `estimate_offload.py`, its time on the link."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch

from florilegium.config import TrainConfig
from florilegium.errors import ResourceError, UsageError
from florilegium.model import Stage, fast_paths
from florilegium.model.fused_model import fused_unsupported
from florilegium.model.gpus import Gpu
from florilegium.model.memory_plan import (
    BLOCK_ROWS,
    HEAD_CHUNK,
    WORKSPACE,
    MemoryPlan,
    ModelShape,
    least_plan,
    plan_memory,
    without_blocks,
)
from florilegium.model.skeleton import Skeleton
from florilegium.runs.estimate_generation import PROCESS_BYTES
from florilegium.runs.estimate_offload import Streamed
from florilegium.runs.estimate_stages import NO_LIMIT, FusedStage, fused_stages, plain_stages
from florilegium.runs.row_lengths import CPU_BATCH_TOKENS, ROW_TOKENS
from florilegium.storage.platform import available_memory
from florilegium.training.stage_memory import StepTokens

KEPT_PER_WIDTH = 34  # bytes a token keeps of a block, for each number of its width


@dataclass(frozen=True)
class Memory:
    """What the run needs and what is there, in bytes. `plan` is None where the fused blocks do not run; `needed` is then
    an estimate. Of several cards it is what the fullest needs, and `by_card` what each does."""

    needed: int
    available: int
    plan: MemoryPlan | None = None
    by_card: tuple[int, ...] = ()
    layers: int = 0  # of the plan's stage; 0: all
    stages: tuple[FusedStage, ...] = ()
    streamed: Streamed | None = None  # what comes from main memory

    @property
    def fits(self) -> bool:
        return self.needed <= self.available

    def to_json(self) -> dict[str, object]:
        return {
            "needed_bytes": self.needed,
            "available_bytes": self.available,
            "fits": self.fits,
            "plan": None if self.plan is None else asdict(self.plan),
            **({} if self.streamed is None else {"offload": asdict(self.streamed)}),
        }


@dataclass(frozen=True)
class Option:
    """What else could be chosen, and the bytes it would need; `streamed`: also of main memory."""

    bits: int
    memory: str
    needed: int
    streamed: Streamed | None = None


def shape_on(skeleton: Skeleton, config: TrainConfig, card: Gpu | None) -> ModelShape:
    """As the plan of the fused blocks reads the whole model, or what `--memory offload` leaves of it on the card."""
    shape = skeleton.shape(config.bits, reads_int8=card is not None and card.is_hopper and config.bits == 8)
    assert shape is not None, "the fused blocks take this model, so its family packs"
    return without_blocks(shape, config.bits) if config.memory == "offload" else shape


def is_fused(skeleton: Skeleton, config: TrainConfig, card: Gpu | None) -> bool:
    """Whether the fused blocks take this model on this card, as far as a config.json can tell."""
    capability = None if card is None else card.capability
    return card is not None and (capability is None or capability >= (8, 0)) and not fused_unsupported(skeleton, config)


def check_kernels(skeleton: Skeleton, config: TrainConfig, card: Gpu | None, named: bool) -> None:
    """Raises UsageError for kernels that a run here, or on the card that was `named`, would refuse: as far as a config.json
    can tell, those of the fused blocks."""
    device = torch.device("cpu" if card is None else "cuda")
    if named:
        reason = fast_paths.unknown_kernel(config.kernels)
    else:
        _, reason = fast_paths.select_kernels(config.kernels, device, config.bits)
    if (
        not reason
        and "fused-blocks" in map(str.strip, config.kernels.split(","))
        and not is_fused(skeleton, config, card)
    ):
        why = fused_unsupported(skeleton, config) or "its kernels compute in bfloat16, which this card does not"
        reason = f"'fused-blocks' is not supported here: {why}"
    if reason:
        raise UsageError(f"--kernels: {reason}", "Use --kernels auto, or leave that name out")


def step_tokens(config: TrainConfig, steps: Sequence[int], longest: int) -> StepTokens:
    """As the plan of a stage reads the steps."""
    return StepTokens(
        [BLOCK_ROWS.round_up(tokens) for tokens in steps], longest, config.micro_batch_tokens or ROW_TOKENS
    )


def memory_on(
    skeleton: Skeleton,
    config: TrainConfig,
    card: Gpu | None,
    steps: list[int],
    longest: int,
    stages: tuple[Stage, ...] = (),
    *,
    room: int | None = None,
) -> Memory:
    """The plan for steps of these token counts on this card (None: the processor), or on a card for each of `stages`; the
    `longest` row is never cut. `room`: bytes to plan with, whatever the card has."""
    available = room_on(config, card) if room is None else room
    if stages:
        return _memory_of_stages(skeleton, config, card, step_tokens(config, steps, longest), stages, available)
    if not is_fused(skeleton, config, card):
        tokens = min(max(steps), config.micro_batch_tokens or (CPU_BATCH_TOKENS if card is None else ROW_TOKENS))
        return Memory(_plain_bytes(skeleton, config, tokens, card), available)
    shape = shape_on(skeleton, config, card)
    longest = BLOCK_ROWS.round_up(longest)
    limit = config.micro_batch_tokens or ROW_TOKENS
    rounded = [max(longest, min(BLOCK_ROWS.round_up(tokens), limit)) for tokens in steps]
    try:
        plan = plan_memory(shape, rounded, available, config.memory, longest)
    except ResourceError:  # what the most economical plan would take, to say by how much it is too much
        if shape.host_block:
            least = least_plan(shape, longest)
            return Memory(least.peak, available, least, streamed=Streamed.of(shape, least, card, steps))
        plan = plan_memory(shape, rounded, NO_LIMIT, "lean", longest)
        smallest = plan_memory(shape, [longest], NO_LIMIT, "lean", longest)
        return Memory(smallest.peak, available, plan)
    return Memory(plan.peak, available, plan, streamed=Streamed.of(shape, plan, card, steps))


def _memory_of_stages(
    skeleton: Skeleton,
    config: TrainConfig,
    card: Gpu | None,
    tokens: StepTokens,
    stages: tuple[Stage, ...],
    available: int,
) -> Memory:
    if not is_fused(skeleton, config, card):
        needed = plain_stages(skeleton, config, stages)
        return Memory(max(needed) if card is not None else sum(needed), available, by_card=needed)
    shape = shape_on(skeleton, config, card)
    found = fused_stages(skeleton, shape, stages, tokens, config.memory, available)
    fullest = max(found, key=lambda stage: stage.plan.peak)
    peaks = tuple(stage.plan.peak for stage in found)
    return Memory(fullest.plan.peak, available, fullest.plan, peaks, fullest.shape.num_layers, tuple(found))


def room_on(config: TrainConfig, card: Gpu | None) -> int:
    """The bytes that a run may take there."""
    return card.budget_within(config.gpu_memory_limit) if card is not None else available_memory() or NO_LIMIT


def _plain_bytes(skeleton: Skeleton, config: TrainConfig, tokens: int, card: Gpu | None) -> int:
    """What a step of `tokens` tokens takes by Transformers' modules and autograd."""
    size = 1 if card is not None or config.bits == 16 else 2  # the processor computes in float32
    block = KEPT_PER_WIDTH * skeleton.width * size * tokens
    kept = block + skeleton.num_layers * 2 * size * skeleton.width * tokens
    if config.memory != "lean":
        kept = skeleton.num_layers * block
    head = min(HEAD_CHUNK, 4 * tokens * skeleton.vocab_size)
    largest = 4 * skeleton.width**2 * 2 * size
    beside = WORKSPACE if card is not None else PROCESS_BYTES
    return skeleton.base_bytes(config.bits) + 16 * skeleton.count.trained + kept + head + largest + beside


def other_options(
    skeleton: Skeleton,
    config: TrainConfig,
    card: Gpu | None,
    steps: list[int],
    longest: int,
    stages: tuple[Stage, ...],
) -> tuple[Option, ...]:
    """What other bits and memory plans would need; on one card that none of them fits, also with the blocks in host
    memory."""
    found: list[Option] = []
    for bits in sorted(skeleton.bytes_by_bits.keys() - ({32} - {config.bits}), key=(8, 4, 16, 32).index):
        for memory in ("lean", "fast"):
            other = replace(config, bits=bits, memory=memory)
            needed = memory_on(skeleton, other, card, steps, longest, stages, room=NO_LIMIT).needed
            found.append(Option(bits, memory, needed))
    room = room_on(config, card)
    if not stages and all(option.needed > room for option in found):
        for bits in (bits for bits in (8, 4) if bits in skeleton.bytes_by_bits):
            other = replace(config, bits=bits, memory="offload")
            if is_fused(skeleton, other, card) and (bits, "offload") != (config.bits, config.memory):
                memory_then = memory_on(skeleton, other, card, steps, longest)
                found.append(Option(bits, "offload", memory_then.needed, memory_then.streamed))
    return tuple(found)
