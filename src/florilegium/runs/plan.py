"""How a run will be executed, decided once, before its folder exists, and never changed afterwards.

    prepared rows and base, the adapter  ->  ExecutionPlan(config, kernels, packing, memory, lengths, length)

`auto` becomes names here: a kernel that this model cannot take is left out, one that was asked for by name is refused
with the reason. Where the fused blocks run, memory is planned too: what they keep of each token, and how many tokens a
piece of a step may hold. Of a pipeline each process plans its own stage."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from florilegium.config import TrainConfig, named_kernels
from florilegium.errors import UsageError
from florilegium.model import LoadedModel, fast_paths
from florilegium.model.card_memory import free_memory
from florilegium.model.document_packing import Packing
from florilegium.model.families import packs
from florilegium.model.gpus import USABLE
from florilegium.model.memory_plan import BLOCK_ROWS, MemoryPlan, model_shape, plan_memory
from florilegium.runs.prepare import Prepared
from florilegium.runs.processes import card_room
from florilegium.runs.row_lengths import ROW_TOKENS
from florilegium.runs.row_packing import documents_of, layers_unsupported, longest_document, row_packing
from florilegium.tokens import PackPlan, pack
from florilegium.tokens.deal import deal
from florilegium.training import (
    ALONE,
    EVALUATION_ROWS,
    Distributed,
    RunLength,
    batch_sampler,
    choose_epochs,
    plan_length,
)
from florilegium.training.micro_batches import MicroBatchCost
from florilegium.training.pipeline_plan import keeps_activations
from florilegium.training.stage_memory import StagePlan, StepTokens, plan_stage

MAX_STEPS_PLANNED = 2048  # steps whose length is known to the memory plan; a longer one later is taken in two pieces
MAX_ROWS_PLANNED = 1024  # held-out rows that are packed to see their lengths
RECORDED = ("fused-blocks", "fused-layers")  # with either of them a step on a GPU is recorded, where it can be


@dataclass(frozen=True)
class ExecutionPlan:
    """`config` has every `auto` resolved, and is what config.yaml says. `memory` is None where the fused blocks do not
    run; `products` then says nothing. `lengths` are tokens of batches to come, whose kernels are compiled ahead.
    `documents` is how a family that is not ours keeps the documents of a row apart."""

    config: TrainConfig
    kernels: tuple[str, ...]
    packing: PackPlan
    length: RunLength
    memory: MemoryPlan | None = None
    lengths: tuple[int, ...] = ()
    products: str = ""  # how the fused blocks read int8 weights
    documents: Packing = Packing("")
    recompute: bool = False  # activations, in the backward pass, where the fused blocks do not run
    stage_peaks: tuple[int, ...] = ()  # of a pipeline of fused blocks: what each process expects
    micro_batches: MicroBatchCost | None = None  # of the same
    tile: int = 0  # tokens of which steps in the tile-aligned order hold a multiple; 0: another order
    longest: int = 0  # tokens of the longest row, for the fused layers of other families
    layers_reason: str = ""  # why those run as Transformers has them, where `auto` would have fused them


def plan_execution(prepared: Prepared, loaded: LoadedModel, distributed: Distributed = ALONE) -> ExecutionPlan:
    """The plan for the prepared rows on this model, the adapter attached. Raises UsageError for a kernel asked for by
    name that cannot run, ResourceError when not even the most economical memory plan fits. Several processes make the same
    plan: the smallest GPU's."""
    # how many blocks stay in host memory is planned below: until then none does
    kernels = _agreed(_usable_kernels(prepared, loaded, 0), distributed)
    config = replace(
        prepared.config,
        kernels=",".join(kernels) or "off",
        batching=choose_batching(prepared.requested_batching, kernels, prepared.config.device),
        epochs=_passes(prepared),
    )
    length = plan_length(len(prepared.training.examples), config)
    if "fused-blocks" not in kernels:
        if loaded.base.host is not None:
            raise UsageError(
                "--memory offload requires the fused-blocks kernel", "Leave --kernels out, or use --memory lean"
            )
        documents = documents_of(config, loaded)
        reason = ""
        if "fused-layers" in kernels:
            reason = layers_unsupported(prepared, loaded, documents)
            if distributed.smallest(int(not reason)) == 0:
                reason = reason or "another process cannot fuse them"
        elif "fused-layers" in prepared.kernels and not loaded.base.packs:
            reason = fast_paths.unsupported("fused-layers", loaded)
        if reason:
            kernels = tuple(name for name in kernels if name != "fused-layers")
            batching = choose_batching(prepared.requested_batching, kernels, prepared.config.device)
            config = replace(config, kernels=",".join(kernels) or "off", batching=batching)
        separate = not (prepared.base.packs or documents.mask)
        packing = row_packing(config, kernels, masked=not prepared.base.packs, separate=separate)
        recompute = config.memory == "lean" or _recomputes_stages(prepared, config, distributed)
        tile = _tile(prepared, config)
        return ExecutionPlan(
            config, kernels, packing, length, documents=documents, recompute=recompute, tile=tile,
            longest=longest_document(prepared), layers_reason=reason,
        )  # fmt: skip
    found = _plan_blocks(prepared, config, loaded, length, distributed)
    memory = found.memory
    kernels = tuple(name for name in kernels if not _refused(prepared, loaded, name, memory.offloaded))
    config = replace(config, kernels=",".join(kernels))
    packing = PackPlan(memory.tokens, 64, memory.tokens, bucketed=True)
    coming = (*_evaluation_lengths(prepared, packing), *found.lengths)
    own_blocks = (
        len(prepared.stages[distributed.rank % len(prepared.stages)]) if prepared.stages else loaded.base.num_layers
    )
    return ExecutionPlan(
        config,
        kernels,
        packing,
        length,
        memory,
        tuple(dict.fromkeys(tokens for tokens in coming if tokens <= memory.tokens)),
        fast_paths.describe_int8_path(loaded) if memory.copies < own_blocks else "",
        stage_peaks=found.peaks,
        micro_batches=found.cost,
        tile=_tile(prepared, config),
    )


def _plan_blocks(
    prepared: Prepared, config: TrainConfig, loaded: LoadedModel, length: RunLength, distributed: Distributed
) -> StagePlan:
    """What the fused blocks of this process keep: all of the model's, or those of its stage of a pipeline. Raises
    ResourceError when not even the most economical plan fits."""
    if prepared.stages:
        return _plan_stage_memory(prepared, config, loaded, distributed)
    lengths = _step_lengths(prepared, config, distributed.world)
    memory = _plan_memory(prepared, config, loaded, lengths, distributed)
    return StagePlan(memory, lengths=tuple(lengths[: length.num_steps]))


def choose_batching(request: str, kernels: tuple[str, ...], device: str = "cuda") -> str:
    """The order of rows for these kernels: where a step is recorded it gains from filling its tiles."""
    recorded = "fused-blocks" in kernels or ("fused-layers" in kernels and device == "cuda")
    return request if request != "auto" else "tile-aligned" if recorded else "shuffled"


def _tile(prepared: Prepared, config: TrainConfig) -> int:
    """Tokens of which a step is to hold a multiple, in the order that arranges them."""
    order = batch_sampler(prepared.training.examples, config, prepared.tile)
    return order.tile if order.tile_aligned else 0


def _passes(prepared: Prepared) -> float | None:
    config = prepared.config
    if config.epochs is None and config.max_steps is None:
        return choose_epochs(len(prepared.training.examples), config)
    return config.epochs


def _usable_kernels(prepared: Prepared, loaded: LoadedModel, streamed: int) -> tuple[str, ...]:
    """Those of `prepared.kernels` that this model can take with so many blocks in host memory."""
    return tuple(name for name in prepared.kernels if not _refused(prepared, loaded, name, streamed))


def _refused(prepared: Prepared, loaded: LoadedModel, name: str, streamed: int) -> bool:
    """Whether `auto` must leave this kernel out. Raises UsageError where it was asked for by name."""
    if name not in fast_paths.OF_THE_MODEL:
        return False
    texts = name in fast_paths.WRITING and prepared.stages
    reason = "a process of a pipeline cannot write texts" if texts else ""
    reason = reason or fast_paths.unsupported(name, loaded, streamed)
    if reason and name in named_kernels(prepared.requested_kernels):
        raise UsageError(
            f"--kernels: {name!r} is not supported here: {reason}", "Use --kernels auto, or leave that name out"
        )
    return bool(reason)


def _agreed(kernels: tuple[str, ...], distributed: Distributed) -> tuple[str, ...]:
    """Processes share the rows of a step, whose order goes by these kernels, and stages speak of the residual stream in one
    dtype: they run in all processes or in none."""
    missing = [name for name in RECORDED if not distributed.smallest(int(name in kernels))]
    return tuple(name for name in kernels if name not in missing)


def _recomputes_stages(prepared: Prepared, config: TrainConfig, distributed: Distributed) -> bool:
    """Whether the stages of a pipeline have no room for their activations."""
    if not prepared.stages:
        return False
    tokens, room = max(_step_lengths(prepared, config, _chains(prepared, distributed))), card_room(config, distributed)
    return not keeps_activations(config, prepared.stages, prepared.base.model.config.hidden_size, tokens, room)


def _chains(prepared: Prepared, distributed: Distributed) -> int:
    """How many pipelines the processes are."""
    return distributed.world // len(prepared.stages)


def _step_lengths(prepared: Prepared, config: TrainConfig, world: int) -> list[int]:
    """Tokens of the steps to come, as they are packed: of several processes those of the one that has most."""
    order = batch_sampler(prepared.training.examples, config, prepared.tile)
    planned = range(min(3 * order.steps_per_epoch, MAX_STEPS_PLANNED))
    if world == 1:
        return [BLOCK_ROWS.round_up(order.tokens(number)) for number in planned]
    steps = [[int(order.lengths[i]) for i in order.step(number)] for number in planned]
    return [BLOCK_ROWS.round_up(max(sum(rows[i] for i in share) for share in deal(rows, world))) for rows in steps]


def _evaluation_lengths(prepared: Prepared, packing: PackPlan) -> list[int]:
    """Tokens of the batches of an evaluation, of which one comes before the first step."""
    sides = [side.examples[:MAX_ROWS_PLANNED] for side in (prepared.held_out, prepared.validation)]
    parts = [side[first : first + EVALUATION_ROWS] for side in sides for first in range(0, len(side), EVALUATION_ROWS)]
    return [batch.tokens_BT.numel() for part in parts for batch in pack(part, packing)]


def _plan_memory(
    prepared: Prepared, config: TrainConfig, loaded: LoadedModel, lengths: list[int], distributed: Distributed
) -> MemoryPlan:
    """Raises ResourceError when not even the most economical plan fits."""
    held = distributed.largest(torch.cuda.memory_allocated())
    budget = distributed.smallest(_budget(config, held))
    longest = BLOCK_ROWS.round_up(_longest(prepared))
    limit = config.micro_batch_tokens or ROW_TOKENS
    steps = [max(longest, min(tokens, limit)) for tokens in lengths]
    assert packs(loaded.family), "the fused blocks were selected, so the family packs"
    host = 0 if loaded.base.host is None else loaded.base.host.block_bytes
    reads_int8 = fast_paths.supports_int8_matmul(loaded)
    shape = model_shape(loaded.family, loaded.model, held, reads_int8=reads_int8, host_block=host)
    return plan_memory(shape, steps, budget, config.memory, longest)


def _plan_stage_memory(
    prepared: Prepared, config: TrainConfig, loaded: LoadedModel, distributed: Distributed
) -> StagePlan:
    """Of this process's card, which holds other blocks than the others. Raises ResourceError."""
    held = torch.cuda.memory_allocated()
    limit = config.micro_batch_tokens or ROW_TOKENS
    tokens = StepTokens(_step_lengths(prepared, config, _chains(prepared, distributed)), _longest(prepared), limit)
    return plan_stage(loaded, prepared.stages, tokens, config.memory, held, _budget(config, held), distributed)


def _budget(config: TrainConfig, held: int) -> int:
    """Bytes of this process's card, those that the base takes among them."""
    there = free_memory() + held
    return int(min(config.gpu_memory_limit * 2**30, there)) if config.gpu_memory_limit else int(there * USABLE)


def _longest(prepared: Prepared) -> int:
    return max(len(example.token_ids) - 1 for example in prepared.training.examples)
