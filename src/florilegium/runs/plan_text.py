"""The first lines on the screen: the model, the adapter, the kernels and the memory that a run will take."""

from __future__ import annotations

from pathlib import Path

import torch

from florilegium.config import TrainConfig
from florilegium.errors import clock, counted
from florilegium.model import Base, ParameterCount
from florilegium.model.memory_plan import MemoryPlan
from florilegium.runs.plan import ExecutionPlan
from florilegium.runs.plan_time import planned_seconds
from florilegium.runs.prepare import Prepared
from florilegium.runs.recorder import ProgressView
from florilegium.training.pipeline_plan import describe_stages

STORED_AS = {8: "int8", 4: "NF4", 16: "bfloat16", 32: "float32"}


def say_plan(
    view: ProgressView, prepared: Prepared, plan: ExecutionPlan, count: ParameterCount, directory: Path, world: int = 1
) -> None:
    """Tells the view, a line a subject."""
    config, base = plan.config, prepared.base
    view.say(
        f"model    {config.model}: {count.total - count.trained:,} parameters in {STORED_AS[config.bits]}, "
        f"compute dtype {config.dtype}, on {describe_device(base)}"
    )
    view.say(f"adapter  LoRA rank {config.lora_rank}: trains {count.trained:,} parameters ({100 * count.share:.3f}%)")
    if config.start_from:
        view.say(f"from     {config.start_from}: its adapter is trained further, with a fresh optimizer")
    rows = "padded sequences, one quote each" if plan.packing.separate else "packed sequences"
    view.say(f"kernels  {rows}; {describe_kernels(plan.kernels)}")
    if plan.documents.reason:
        view.say(f"         not packed: {plan.documents.reason}")
    if plan.layers_reason:
        view.say(f"         layers as Transformers runs them: {plan.layers_reason}")
    if plan.memory is not None:
        layers = base.num_layers if base.stage is None else len(base.stage)
        view.say(f"memory   {describe_memory(plan.memory, layers, config.gpu_memory_limit)}")
    if base.host is not None and plan.memory is not None and plan.memory.offloaded:
        view.say(f"         {describe_link(plan.memory, base.host.block_bytes, base.host.link_rate())}")
    if plan.stage_peaks:
        peaks = ", ".join(f"{peak / 2**30:.1f}" for peak in plan.stage_peaks)
        view.say(f"         process 0; predicted peaks of all processes: {peaks} GiB")
    if plan.products:
        view.say(f"         {plan.products}")
    stages = prepared.stages
    if world > 1:
        shared = describe_stages(stages, world // len(stages)) if stages else describe_processes(world, config)
        view.say(f"parallel {shared}{_differing(plan, base.device)}")
        if stages:
            view.say(
                "         no samples or verdict: pipeline processes cannot generate; run florilegium generate afterwards"
            )
            if plan.recompute:
                view.say("         activations are computed again in the backward pass")
    elif config.parallel == "pipeline":
        view.say("parallel one process: it holds the whole base")
    passes = (
        f"{config.epochs:g} {'epoch' if config.epochs == 1 else 'epochs'} = "
        if config.epochs and not config.max_steps
        else ""
    )
    seconds = planned_seconds(prepared, plan) if world == 1 else None
    time = "" if seconds is None else f"about {clock(seconds)}, "
    view.say(
        f"plan     {passes}{counted(plan.length.num_steps, 'step')} of {counted(config.batch_size, 'quote')}, {time}"
        f"learning rate {config.learning_rate:g}, seed {config.seed}"
    )
    view.say(f"run      {directory}")


def describe_processes(world: int, config: TrainConfig) -> str:
    """How the steps are shared."""
    each = "a copy of the model each"
    quotes = counted(config.batch_size, "quote")
    return f"{counted(world, 'process', 'processes')}, {each}: each step's {quotes} are balanced by tokens"


def _differing(plan: ExecutionPlan, device: torch.device) -> str:
    """What of the result depends on the number of processes. Dropout by rows does not (`model/row_dropout.py`)."""
    by_rows = device.type == "cpu" or bool({"fused-blocks", "fused-layers"} & set(plan.kernels))
    return "; dropout depends on the number of processes" if plan.config.lora_dropout and not by_rows else ""


def describe_device(base: Base) -> str:
    if base.device.type == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU ({counted(torch.get_num_threads(), 'thread')})"


def describe_kernels(names: tuple[str, ...]) -> str:
    """The kernels that a run takes. Fused blocks and layers bring attention and linears of their own: the other two are
    not used beside them."""
    fused = {"fused-blocks", "fused-layers"} & set(names)
    replaced = ("flex-attention", "quantized-linear") if fused else ()
    return ", ".join(name for name in names if name not in replaced) or "no fast kernels"


def describe_memory(memory: MemoryPlan, layers: int, limit: float | None = None) -> str:
    """What the plan keeps, in words, and the peak that it expects; `limit` is --gpu-memory-limit's."""
    peak = f"{describe_kept(memory, layers)}; predicted peak {memory.peak / 2**30:.1f} GiB"
    if not torch.cuda.is_available():
        return peak
    card = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory / 2**30
    return f"{peak} of {limit:g} (--gpu-memory-limit)" if limit and limit < card else f"{peak} of {card:.0f}"


def describe_link(memory: MemoryPlan, block_bytes: int, rate: float) -> str:
    """What the blocks in host memory cost: `rate` bytes a second of the link, measured just now; 0 where it was not."""
    bytes_there = memory.offloaded * block_bytes
    told = f"{bytes_there / 1e9:.1f} GB of weights come from host memory, forward and back"
    if not rate:
        return told
    most = memory.tokens * rate / (2 * bytes_there)
    return f"{told}; host-to-GPU link {rate / 1e9:.0f} GB/s: at most {most:,.0f} tokens/s"


def describe_kept(memory: MemoryPlan, layers: int) -> str:
    kept = (
        "all activations kept" if memory.full == layers else f"{memory.full} of {layers} blocks keep their activations"
    )
    copies = f", {memory.copies} of {layers} blocks with a bfloat16 copy of their weights" if memory.copies else ""
    if memory.offloaded:
        copies += f", {memory.offloaded} of {layers} blocks in host memory"
    return f"{kept}{copies}, micro-batches of {memory.tokens:,} tokens"
