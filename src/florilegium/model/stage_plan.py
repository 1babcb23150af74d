"""Whether several processes hold a copy of the base each (data parallel) or its blocks in turn (a pipeline), and which
blocks each of them holds then.

    auto       data, unless the base, its adapter and one row's work do not fit on one card
    pipeline   the same time for each stage: blocks, and the head, which for a vocabulary of 250,880 takes as long as
               several; where that does not fit, as nearly the same memory as whole blocks allow

Where there are more processes than stages, they are several such chains, each with a copy of the base (`replicas`). Auto
takes as few stages as the cards allow: hidden states wait for one another, copies do not.

Decided from config.json alone, before a byte of weights is read: each process then reads its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from florilegium.config import TrainConfig
from florilegium.errors import ResourceError, UsageError, counted
from florilegium.model.families import family_of, packs
from florilegium.model.hub import config_folder, read_config
from florilegium.model.memory_plan import GIB, HEAD_CHUNK, WORKSPACE
from florilegium.model.model_config import stored_bits
from florilegium.model.skeleton import Skeleton, read_skeleton
from florilegium.model.stage import Stage

DATA = "Use --parallel data"
INITS = ("default", "gaussian")  # drawn without a look at the base's weights
TOKENS = 1024  # a micro-batch that must fit
KEPT_PER_WIDTH = 50  # bytes a token that a block's modules keep for autograd, for each number of its width, at most
PER_PARAMETER = 24  # of the adapter: itself, its gradient, two moments, and copies in 2 bytes


def plan_stages(config: TrainConfig, world: int, room: int) -> tuple[Stage, ...]:
    """The stages of one chain of processes, of which `world` make one or more; none where each holds a copy of the base.
    `room` is the bytes of a card (0: not known). Raises UsageError for a pipeline that cannot work, ResourceError where not
    even one fits."""
    if world == 1 or config.parallel == "data":
        return ()
    if config.parallel == "auto" and not room:
        return ()
    values = read_config(config_folder(config.model, config.revision), config.model)
    if not packs(family_of(values.get("model_type"))):
        if config.parallel == "auto":
            _refuse_other_family(config, room)
            return ()
        raise UsageError(f"--parallel pipeline is for BLOOM, and {config.model} is of another family", DATA)
    skeleton = read_skeleton(config)
    sizes = StageSizes.of(skeleton, config)
    if config.parallel == "auto" and sizes.whole <= room:
        return ()
    counts = _stage_counts(config, world, skeleton.num_layers)
    _refuse(config, skeleton, stored_bits(values), counts[0])
    for number in counts:
        for head in (sizes.head_blocks, 0.0):  # in the same time; or in the same memory
            lean = split(skeleton.num_layers, [1.0] * skeleton.num_layers, head, number)
            if not room or sizes.most(lean) <= room:
                return lean
    raise ResourceError(
        f"{config.model} does not fit on {counted(len(lean), 'card')}: a stage of its blocks takes "
        f"{sizes.most(lean) / GIB:.1f} GiB, and {room / GIB:.1f} GiB are free",
        _what_would_do(config, skeleton, lean, room),
    )


def _what_would_do(config: TrainConfig, skeleton: Skeleton, stages: Sequence[Stage], room: int) -> str:
    """How many cards of this `room` would hold the base, and whether as many as there are would in 4 bits."""
    layers, advice = skeleton.num_layers, []
    sizes, in_4 = StageSizes.of(skeleton, config), StageSizes.of(skeleton, replace(config, bits=4))
    for number in range(len(stages) + 1, layers + 1):
        if sizes.most(split(layers, [1.0] * layers, 0.0, number)) <= room:
            advice.append(f"{number} of them")
            break
    if config.bits != 4 and in_4.most(stages) <= room:
        advice.append("--bits 4")
    return f"Use {' or '.join(advice)}" if advice else "Choose a smaller --model, or larger cards"


def _stage_counts(config: TrainConfig, world: int, num_layers: int) -> list[int]:
    """How many stages a chain may have, the best first: as many chains as possible for auto, else one. Raises
    UsageError."""
    if asked := config.pipeline_stages:
        if asked < 2 or world % asked:
            processes = counted(world, "process", "processes")
            raise UsageError(
                f"--pipeline-stages is {asked}, and {processes} do not make chains of that many",
                "It takes 2 or more, a divisor of the number of processes",
            )
        return [asked]
    if config.parallel == "pipeline":
        return [world]
    return [number for number in range(2, world + 1) if world % number == 0 and number <= num_layers] or [world]


def split(num_layers: int, costs: Sequence[float], head: float, world: int) -> tuple[Stage, ...]:
    """Blocks in a row for each of `world` stages, so that the most costly stage costs least; the last has the `head`,
    too."""
    total = [0.0]
    for cost in costs:
        total.append(total[-1] + cost)
    # best[last]: the cost of the most costly stage and the cuts, for the blocks before `last` on the stages so far
    best: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, (0,))}
    for number in range(world):
        extra = head if number == world - 1 else 0.0
        ends = range(number + 1, num_layers - (world - 1 - number) + 1)
        best = {
            end: min(
                (max(most, total[end] - total[start] + extra), (*cuts, end))
                for start, (most, cuts) in best.items()
                if start < end
            )
            for end in ends
        }
    cuts = best[num_layers][1]
    return tuple(Stage(first, last, num_layers) for first, last in zip(cuts, cuts[1:], strict=False))


@dataclass(frozen=True)
class StageSizes:
    """Bytes of a block, of the embedding, and of what a micro-batch needs beside them; what the head computes, in
    blocks."""

    block: float
    embedding: int
    work: int
    num_layers: int
    head_blocks: float

    @classmethod
    def of(cls, skeleton: Skeleton, config: TrainConfig) -> StageSizes:
        layers, width, vocabulary = skeleton.num_layers, skeleton.width, skeleton.vocab_size
        embedding = (4 if config.bits == 32 else 2) * vocabulary * width
        weights = skeleton.base_bytes(config.bits) + PER_PARAMETER * skeleton.count.trained - embedding
        per_block = (skeleton.product_parameters - vocabulary * width) / layers
        # One block's activations, one of its weights dequantised, a chunk of logits.
        work = TOKENS * 2 * KEPT_PER_WIDTH * width + 8 * width**2 + min(HEAD_CHUNK, 4 * TOKENS * vocabulary)
        return cls(weights / layers, embedding, work + WORKSPACE, layers, vocabulary * width / per_block)

    @property
    def whole(self) -> int:
        return self.bytes(Stage(0, self.num_layers, self.num_layers))

    def bytes(self, stage: Stage) -> int:
        """What a process of this stage takes, its activations recomputed."""
        ends = self.embedding if stage.has_embedding or stage.has_head else 0
        return round(self.block * len(stage)) + ends + self.work

    def most(self, stages: Sequence[Stage]) -> int:
        return max(map(self.bytes, stages))


def _refuse_other_family(config: TrainConfig, room: int) -> None:
    """Raises ResourceError where the weights alone are larger than a card: only our own forward pass is cut in stages, and
    FSDP cannot shard int8."""
    held = read_skeleton(config).base_bytes(config.bits)
    if held > room:
        raise ResourceError(
            f"{config.model} takes {held / GIB:.1f} GiB in {config.bits} bits, {room / GIB:.1f} GiB are free on a card, and "
            "of all families only BLOOM is spread over several",
            "Choose a smaller --model, or a larger card" if config.bits == 4 else "Use --bits 4, or a larger card",
        )


def _refuse(config: TrainConfig, skeleton: Skeleton, stored: int | None, world: int) -> None:
    """Raises UsageError for what a pipeline cannot do."""
    pipeline = "--parallel pipeline"
    if world > skeleton.num_layers:
        layers = counted(skeleton.num_layers, "block")
        raise UsageError(f"{pipeline}: {config.model} has {layers}, and there are {world} processes", "Start fewer")
    if config.dora or config.lora_init not in INITS:
        asked = "--dora" if config.dora else f"--lora-init {config.lora_init}"
        raise UsageError(f"{pipeline} does not work with {asked}, which reads weights of all blocks", DATA)
    if config.optimizer != "adamw":
        raise UsageError(
            f"{pipeline} does not work with --optimizer {config.optimizer}, whose state is not gathered",
            "Use --optimizer adamw: each process has that of its own blocks only",
        )
    if stored is not None:
        raise UsageError(f"{pipeline} quantises as it reads, and {config.model} is stored quantised", DATA)
