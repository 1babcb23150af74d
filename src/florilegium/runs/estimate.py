"""What a run will take, before anything is downloaded: `florilegium estimate` and `train --dry-run`.

    config.json -> skeleton (shapes, counts) \\
    rows -> lengths in tokens -> steps        }-> memory plan on the card -> time, disk, download
    the card: this one, or one by name       /

Of weights nothing is read. Where the fused blocks run, memory is what their own plan computes and is held to: the run
keeps forecast and peak in its manifest. Elsewhere it is the usual estimate of what a block keeps of each token
(Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer Models": 34 bytes for each of its
width), and said to be one. Time is operations by the card's rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch

from florilegium.config import TrainConfig
from florilegium.data import Rows, split_by_config
from florilegium.errors import ResourceError
from florilegium.model import choose_device
from florilegium.model.families import packs
from florilegium.model.gpus import DRIVER, Gpu, find_by_device_name, find_gpu
from florilegium.model.memory_plan import BLOCK_ROWS, HEAD_CHUNK, WORKSPACE, MemoryPlan, ModelShape, plan_memory
from florilegium.model.skeleton import Skeleton, read_skeleton
from florilegium.runs.plan import CPU_BATCH_TOKENS, MAX_STEPS_PLANNED, ROW_TOKENS, choose_batching
from florilegium.runs.rates import step_seconds
from florilegium.runs.row_lengths import row_lengths, ways
from florilegium.storage.platform import available_memory
from florilegium.tokens import BatchSampler
from florilegium.training import choose_epochs, plan_length

KEPT_PER_WIDTH = 34  # bytes a token keeps of a block, for each number of its width
PROCESS_BYTES = 600 << 20  # Python, torch and Transformers in main memory


@dataclass(frozen=True)
class Memory:
    """What the run needs and what is there, in bytes. `plan` is None where the fused blocks do not run; `needed` is then
    an estimate."""

    needed: int
    available: int
    plan: MemoryPlan | None = None

    @property
    def fits(self) -> bool:
        return self.needed <= self.available

    def to_json(self) -> dict[str, object]:
        return {
            "needed_bytes": self.needed,
            "available_bytes": self.available,
            "fits": self.fits,
            "plan": None if self.plan is None else asdict(self.plan),
        }


@dataclass(frozen=True)
class Option:
    """What else could be chosen, and the bytes it would need."""

    bits: int
    memory: str
    needed: int


@dataclass(frozen=True)
class Estimate:
    """All that `florilegium estimate` says. Seconds are None where no rate is known."""

    skeleton: Skeleton
    config: TrainConfig
    gpu: Gpu | None  # None: the processor
    device: str
    memory: Memory
    num_rows: int
    tokens_per_row: float
    tokens_counted: bool  # by the model's tokenizer; else from the number of bytes
    num_steps: int
    step_seconds: float | None
    rate_is_measured: bool
    disk: int
    options: tuple[Option, ...]

    @property
    def seconds(self) -> float | None:
        return None if self.step_seconds is None else self.num_steps * self.step_seconds

    def to_json(self) -> dict[str, object]:
        count, download = self.skeleton.count, self.skeleton.download
        return {
            "model": self.skeleton.name,
            "parameters": count.total - count.trained,
            "trained_parameters": count.trained,
            "trained_share": count.share,
            "download_bytes": download.total,
            "downloaded_bytes": download.here,
            "disk_bytes": self.disk,
            "device": self.device,
            "bits": self.config.bits,
            "weight_bytes": self.skeleton.base_bytes(self.config.bits),
            "memory": self.memory.to_json(),
            "training_rows": self.num_rows,
            "tokens_per_row": self.tokens_per_row,
            "tokens_counted": self.tokens_counted,
            "epochs": self.config.epochs,
            "steps": self.num_steps,
            "step_seconds": self.step_seconds,
            "seconds": self.seconds,
            "options": [asdict(option) for option in self.options],
        }


def estimate(config: TrainConfig, rows: Rows, gpu: str | None = None) -> Estimate:
    """What `train` with this config on these rows will take, on the card `gpu` (a name or its memory; None: on this
    machine). Raises ModelError, UsageError."""
    device = choose_device(config.device) if gpu is None else torch.device("cuda")
    card = find_gpu(gpu) if gpu is not None else _this_card() if device.type == "cuda" else None
    skeleton = read_skeleton(config)
    training = split_by_config(config, rows).training
    lengths, counted = row_lengths(config, rows, training)
    num_rows = len(training) * ways(rows)
    fused = _fused(skeleton, config, card)
    config = replace(
        config,
        epochs=config.epochs or (None if config.max_steps else choose_epochs(num_rows, config.batch_size)),
        batching=choose_batching(config.batching, ("fused-blocks",) if fused else ()),
    )
    steps = _steps(lengths, config)
    memory = memory_on(skeleton, config, card, steps, max(lengths, default=1))
    shape = _shape(skeleton, config, card) if memory.plan is not None else None
    seconds = step_seconds(skeleton, card, steps, shape, memory.plan)
    return Estimate(
        skeleton,
        config,
        card,
        card.name if card else f"CPU ({torch.get_num_threads()} threads)",
        memory,
        num_rows,
        sum(lengths) / max(1, len(lengths)),
        counted,
        plan_length(num_rows, config).num_steps,
        seconds,
        gpu is None and card is None,
        _disk(skeleton, config),
        _options(skeleton, config, card, steps, max(lengths, default=1)),
    )


def _this_card() -> Gpu:
    """The card of this machine, with what is free on it now."""
    known = find_by_device_name(torch.cuda.get_device_name())
    free, _ = torch.cuda.mem_get_info()
    name, capability = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
    rates = (None, None) if known is None else (known.tflops, known.bandwidth)
    return Gpu(name, int(free + DRIVER), *rates, capability)


def _shape(skeleton: Skeleton, config: TrainConfig, card: Gpu | None) -> ModelShape:
    shape = skeleton.shape(config.bits, reads_int8=card is not None and card.is_hopper and config.bits == 8)
    assert shape is not None, "the fused blocks take this model, so its family packs"
    return shape


def _fused(skeleton: Skeleton, config: TrainConfig, card: Gpu | None) -> bool:
    """Whether the fused blocks take this model on this card, as far as a config.json can tell (`fast/support.py`)."""
    if (
        card is None
        or not packs(skeleton.family)
        or config.bits not in (4, 8)
        or config.kernels == "off"
        or config.dora
    ):
        return False
    head_width = skeleton.width // skeleton.config.num_attention_heads
    return (
        set(skeleton.adapter_on) <= set(skeleton.family.fused_linears)
        and head_width <= 128
        and skeleton.width % 64 == 0
        and (card.capability is None or card.capability >= (8, 0))
        and not getattr(skeleton.config, "apply_residual_connection_post_layernorm", False)
    )


def _steps(lengths: Sequence[int], config: TrainConfig) -> list[int]:
    """Tokens of the steps to come, from the lengths of as many rows as were looked at."""
    if not lengths:
        return [1]
    order = BatchSampler(lengths, config.batch_size, config.seed, tile_aligned=config.batching == "tile-aligned")
    return [order.tokens(number) for number in range(min(3 * order.steps_per_epoch, MAX_STEPS_PLANNED))]


def memory_on(skeleton: Skeleton, config: TrainConfig, card: Gpu | None, steps: list[int], longest: int) -> Memory:
    """The plan for steps of these token counts on this card (None: the processor); the `longest` row is never cut."""
    available = _available(config, card)
    if not _fused(skeleton, config, card):
        tokens = min(max(steps), config.micro_batch_tokens or (CPU_BATCH_TOKENS if card is None else ROW_TOKENS))
        return Memory(_plain_bytes(skeleton, config, tokens, card), available)
    shape = _shape(skeleton, config, card)
    longest = BLOCK_ROWS.round_up(longest)
    limit = config.micro_batch_tokens or ROW_TOKENS
    rounded = [max(longest, min(BLOCK_ROWS.round_up(tokens), limit)) for tokens in steps]
    try:
        plan = plan_memory(shape, rounded, available, config.memory, longest)
    except ResourceError:  # what the most economical plan would take, to say by how much it is too much
        plan = plan_memory(shape, rounded, 1 << 60, "lean", longest)
        smallest = plan_memory(shape, [longest], 1 << 60, "lean", longest)
        return Memory(smallest.peak, available, plan)
    return Memory(plan.peak, available, plan)


def _available(config: TrainConfig, card: Gpu | None) -> int:
    if config.gpu_memory_limit:
        return int(config.gpu_memory_limit * 2**30)
    return card.budget if card is not None else available_memory() or 1 << 62


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


def _disk(skeleton: Skeleton, config: TrainConfig) -> int:
    """What the run's folder takes: the adapter, and in each checkpoint the adapter with AdamW's two numbers each."""
    adapter = 4 * skeleton.count.trained
    return adapter + (config.keep_checkpoints + 1) * 3 * adapter


def _options(
    skeleton: Skeleton, config: TrainConfig, card: Gpu | None, steps: list[int], longest: int
) -> tuple[Option, ...]:
    """What other bits and memory plans would need."""
    found = []
    for bits in sorted(skeleton.bytes_by_bits.keys() - ({32} - {config.bits}), key=(8, 4, 16, 32).index):
        for memory in ("lean", "fast"):
            other = replace(config, bits=bits, memory=memory, gpu_memory_limit=1 << 20)
            found.append(Option(bits, memory, memory_on(skeleton, other, card, steps, longest).needed))
    return tuple(found)
