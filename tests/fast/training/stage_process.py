"""One process of a pipeline of fused blocks, as torchrun starts it; and a stage's model for tests in one process.

    torchrun --standalone --nproc-per-node 2 -m tests.fast.training.stage_process MODEL OUT DEVICE BITS DROPOUT TARGETS

Leaves the loss and the gradients of its own adapter in OUT/RANK.safetensors."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from zlib import crc32

import torch
from safetensors.torch import save_file

from florilegium import fast
from florilegium.config import make_config
from florilegium.model import ForwardOptions, LoadedModel, Stage, attach_adapter, load_base
from florilegium.model.families.bloom import bloom_model
from florilegium.model.stage_plan import split
from florilegium.tokens import Batch, PackPlan
from florilegium.training import Distributed, joined
from florilegium.training.pipeline import Pipeline
from tests.oracle import rows_of

LAYERS = 4
LENGTHS = (9, 1, 20, 2, 5, 40, 30, 11, 60)
PLAN = PackPlan(row_tokens=64, multiple=64, batch_tokens=64)
Plan = tuple[int, int, int]  # blocks that keep all, blocks that keep input and middle, copies
KEPT: Plan = (10**6, 10**6, 0)


def stage_of(
    folder: Path, bits: int, device: torch.device, dropout: float, targets: str, stage: Stage | None
) -> LoadedModel:
    """The base, or a stage of it, with LoRA of which neither A nor B is zero: a block's is the same wherever it lies."""
    interpreted = device.type == "cpu"
    base = load_base(
        str(folder), bits=bits, device=device, compute="float32" if interpreted else "bfloat16", stage=stage
    )
    settings = {"rank": 4, "dropout": dropout, "bits": bits, "target_modules": targets}
    torch.manual_seed(3)
    model = attach_adapter(base, make_config(settings))
    for name, parameter in model.named_parameters():
        if "lora_" in name and not parameter.is_meta:
            own = torch.Generator().manual_seed(crc32(name.encode()))
            parameter.data.copy_(torch.randn(parameter.shape, generator=own) * 0.05)
        elif hasattr(parameter, "quant_state") and interpreted and not parameter.is_meta:
            parameter.quant_state.dtype = torch.float32  # bitsandbytes would round its NF4 weights to bfloat16
    model.train()
    return LoadedModel(base, model, ("chunked-loss",))


def fused(loaded: LoadedModel, plan: Plan = KEPT, held: range | None = None) -> ForwardOptions:
    """The fused blocks of a model, or those that it holds of them."""
    dtype = torch.float32 if loaded.base.device.type == "cpu" else torch.bfloat16
    stage = loaded.base.stage
    if stage is not None:
        held = range(stage.first, stage.last)
    stack = fast.make_block_stack(bloom_model(loaded.model), *plan, dtype, held=held)
    return ForwardOptions(("chunked-loss",), block_stack=stack)


def seeded(batches: Sequence[Batch]) -> list[Batch]:
    return [replace(batch, seed_1=torch.tensor([100 + number])) for number, batch in enumerate(batches)]


def pipeline_of(folder: Path, distributed: Distributed) -> Pipeline:
    layers = int(json.loads((folder / "config.json").read_text())["n_layer"])
    return Pipeline(distributed, split(layers, [1.0] * layers, 0.0, distributed.world))


def gradients_of(loaded: LoadedModel) -> dict[str, torch.Tensor]:
    return {n: p.grad.cpu() for n, p in loaded.model.named_parameters() if p.requires_grad and p.grad is not None}


def main(folder: str, out: str, device: str, bits: str, dropout: str, targets: str) -> None:
    with joined(device) as distributed:
        pipeline = pipeline_of(Path(folder), distributed)
        own = pipeline.stage
        loaded = stage_of(Path(folder), int(bits), distributed.device, float(dropout), targets, own)
        distributed.sum_(torch.zeros(1, device=distributed.device))  # NCCL wants all to meet before two of them talk
        options = fused(loaded)
        batches = seeded(pipeline.micro_batches(rows_of(LENGTHS), PLAN))
        count = sum(batch.num_targets for batch in batches)
        loss = pipeline.gradients(loaded, batches, options, count)
        loaded.model.eval()
        with torch.no_grad():
            evaluated = pipeline.losses(loaded, batches, options)
        figures = torch.tensor([float(loss), evaluated, float(len(batches))], dtype=torch.float64)
        save_file({"figures": figures, **gradients_of(loaded)}, Path(out) / f"{distributed.rank}.safetensors")


if __name__ == "__main__":
    main(*sys.argv[1:])
