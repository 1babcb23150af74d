"""What a run will take, before anything is downloaded: `florilegium estimate` and `train --dry-run`.

    config.json -> skeleton (shapes, counts) \\
    rows -> lengths in tokens -> steps        }-> memory plan on the card -> time, disk, download
    the card: this one, or one by name       /              several: estimate_stages.py

Of weights nothing is read. Memory is `estimate_memory.py`'s; where the fused blocks run, the run keeps forecast and peak in
its manifest. Time is operations by the card's rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch

from florilegium.config import TrainConfig
from florilegium.data import Rows, split_by_config
from florilegium.model import choose_compute_dtype, choose_device
from florilegium.model.card_memory import this_card
from florilegium.model.families import packs
from florilegium.model.gpus import Gpu, find_gpu
from florilegium.model.offload import check_offload, place_blocks
from florilegium.model.rehearsal import check_bits
from florilegium.model.skeleton import Skeleton, read_skeleton
from florilegium.runs.estimate_memory import (
    Memory,
    Option,
    check_kernels,
    is_fused,
    memory_on,
    other_options,
    room_on,
    shape_on,
    step_tokens,
)
from florilegium.runs.estimate_stages import Cards, pipeline_seconds, stages_on
from florilegium.runs.plan import MAX_STEPS_PLANNED, choose_batching
from florilegium.runs.rates import beside_seconds, product_rate, step_seconds
from florilegium.runs.row_lengths import row_lengths, ways
from florilegium.tokens import BatchSampler
from florilegium.tokens.deal import deal
from florilegium.training import choose_epochs, plan_length


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
    beside_seconds: float | None  # evaluations, samples, the verdict's texts
    rate_is_measured: bool
    disk: int
    options: tuple[Option, ...]
    cards: Cards | None = None  # None: one

    @property
    def seconds(self) -> float | None:
        """Of the whole run, but for loading the base."""
        if self.step_seconds is None or self.beside_seconds is None:
            return None
        return self.num_steps * self.step_seconds + self.beside_seconds

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
            "beside_seconds": self.beside_seconds,
            "seconds": self.seconds,
            "options": [asdict(option) for option in self.options],
            **({"cards": self.cards.to_json()} if self.cards else {}),
        }


def estimate(
    config: TrainConfig, rows: Rows, gpu: str | None = None, gpus: int = 1, asked_bits: int | None = None
) -> Estimate:
    """What `train` with this config on these rows will take, on the card `gpu` (a name or its memory; None: on this
    machine), or on `gpus` of them; `asked_bits` are those that somebody typed, as for `train_config`. Raises
    ModelError, UsageError; ResourceError where no pipeline fits."""
    config = replace(config, bits=check_bits(config.model, config.revision, asked_bits, config.bits))
    device = choose_device(config.device) if gpu is None else torch.device("cuda")
    card = find_gpu(gpu) if gpu is not None else this_card() if device.type == "cuda" else None
    skeleton = read_skeleton(config)
    check_kernels(skeleton, config, card, named=gpu is not None)
    split = split_by_config(config, rows)
    training = split.training
    lengths, counted = row_lengths(config, rows, training)
    num_rows = len(training) * ways(rows)
    fused = is_fused(skeleton, config, card)
    config = replace(
        config,
        epochs=config.epochs or (None if config.max_steps else choose_epochs(num_rows, config)),
        batching=choose_batching(config.batching, ("fused-blocks",) if fused else ()),
    )
    room = room_on(config, card) if card is not None else 0
    stages = stages_on(config, gpus, room)
    kernels = ("fused-blocks",) if fused else ()
    steps, longest = _steps(lengths, config, gpus // max(1, len(stages))), max(lengths, default=1)
    where = torch.device("cuda" if card else "cpu")
    check_offload(config, where, gpus, kernels)
    if place_blocks(config, where, gpus, kernels, longest, card if gpu else None).offload:
        config = replace(config, memory="offload")
    memory = memory_on(skeleton, config, card, steps, longest, stages)
    length, tokens = plan_length(num_rows, config), sum(lengths) / max(1, len(lengths))
    layers = not packs(skeleton.family) and card is not None and (card.capability or (8, 0)) >= (8, 0)
    dtype = choose_compute_dtype(config.dtype, where, config.bits) if card is None else torch.bfloat16
    layers = layers and config.bits != 32
    rate = product_rate(skeleton, card, fused=memory.plan is not None, layers=layers, dtype=dtype)
    seconds = beside = None
    if stages:
        seconds = pipeline_seconds(skeleton, card, memory.stages, step_tokens(config, steps, longest))
    elif rate is not None:
        shape = shape_on(skeleton, config, card) if memory.plan is not None else None
        seconds = step_seconds(skeleton, rate, steps, shape, memory.plan, memory.streamed)
    if rate is not None:
        held_out = len(split.held_out) * ways(rows) * tokens / (gpus // max(1, len(stages)))
        texts = 0 if stages else config.verdict_texts  # a pipeline writes none
        beside = beside_seconds(skeleton, card, rate, length.evaluations, held_out, texts, config.bits, memory.streamed)
    return Estimate(
        skeleton,
        config,
        card,
        card.name if card else f"CPU ({torch.get_num_threads()} threads)",
        memory,
        num_rows,
        tokens,
        counted,
        length.num_steps,
        seconds,
        beside,
        gpu is None and card is None,
        _disk(skeleton, config),
        other_options(skeleton, config, card, steps, longest, stages),
        Cards(gpus, stages, memory.by_card or (memory.needed,) * gpus) if gpus > 1 else None,
    )


def _steps(lengths: Sequence[int], config: TrainConfig, world: int) -> list[int]:
    """Tokens of the steps to come, from the lengths of as many rows as were looked at: of the longest share, where
    several processes share them."""
    if not lengths:
        return [1]
    order = BatchSampler(lengths, config.batch_size, config.seed, tile_aligned=config.batching == "tile-aligned")
    planned = range(min(3 * order.steps_per_epoch, MAX_STEPS_PLANNED))
    if world == 1:
        return [order.tokens(number) for number in planned]
    rows = ([int(order.lengths[i]) for i in order.step(number)] for number in planned)
    return [max(sum(step[i] for i in share) for share in deal(step, world)) for step in rows]


def _disk(skeleton: Skeleton, config: TrainConfig) -> int:
    """What the run's folder takes: the adapter, and in each checkpoint the adapter with AdamW's two numbers each."""
    adapter = 4 * skeleton.count.trained
    return adapter + (config.keep_checkpoints + 1) * 3 * adapter
