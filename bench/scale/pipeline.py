"""Steps of a pipeline over the cards of this machine, with random weights made on them: of BLOOM-176B in int8, 180 GB, no
file is written or read.

    torchrun --standalone --nproc-per-node 2 -m bench.scale.pipeline --size 7b1
    torchrun --standalone --nproc-per-node 2 -m bench.scale.pipeline --size 176b --tokens 8192 --memory lean
    torchrun --standalone --nproc-per-node 2 -m bench.scale.pipeline --device cpu --shape 32 4 5 --tokens 256    to try it

On cards the fused blocks run, under the memory plan that a run makes; `--kernels plain` is the model's own modules, with
kernels for attention, quantised linears and loss.

Rows have the lengths of english_quotes. A line of JSON from rank 0: the stages, micro-batches of a step, seconds (the
median of the steps after the first three), tokens/s, TFLOP/s a card (4 operations for each frozen weight in a product and
token: activations that are computed again do not count), its share of what the card's own products reach, seconds that the
weights took, each card's peak and what its plan expected.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import torch

from bench.common.gpu_model import SIZES, VOCABULARY
from florilegium.config import TrainConfig
from florilegium.model import Base, ForwardOptions, LoadedModel, Stage, attach_adapter, fast_paths
from florilegium.model.bloom_loader import put
from florilegium.model.families import family_of
from florilegium.model.memory_plan import BLOCK_ROWS
from florilegium.model.stage import held_names
from florilegium.model.stage_plan import split
from florilegium.model.transformers_loader import quantization_config
from florilegium.tokens import Example, PackPlan
from florilegium.training import Distributed, Trainer, joined, make_lr_scheduler, make_optimizer, peak_memory, take_step
from florilegium.training.pipeline import Pipeline
from florilegium.training.stage_memory import StagePlan, StepTokens, plan_stage
from florilegium.training.step_sums import StepCounts

WARM_UP = 3


def random_stage(shape: tuple[int, int, int], bits: int, device: torch.device, stage: Stage) -> Base:
    """A base without a tokenizer, of whose numbers this stage's are here."""
    from transformers import BloomConfig, BloomForCausalLM
    from transformers.quantizers.auto import AutoHfQuantizer

    width, heads, layers = shape
    compute = torch.bfloat16 if device.type == "cuda" else torch.float32
    with torch.device("meta"):
        model: Any = BloomForCausalLM(
            BloomConfig(vocab_size=VOCABULARY, hidden_size=width, n_head=heads, n_layer=layers)
        ).to(torch.bfloat16)
    family = family_of("bloom")
    names = sorted(held_names(stage, family, model))  # type: ignore[arg-type]  # a BLOOM packs
    if bits in (8, 4):
        quantizer = AutoHfQuantizer.from_config(quantization_config(bits, compute))
        quantizer.preprocess_model(model=model, device_map={"": str(device)}, dtype=torch.bfloat16)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    torch.manual_seed(stage.first)
    for name in names:
        numbers = torch.randn(shapes[name], dtype=torch.bfloat16, device=device) * 0.02
        is_norm = name.endswith("weight") and len(shapes[name]) == 1
        put(model, name, numbers + 1 if is_norm else numbers, torch.bfloat16, through_bfloat16=False)
    model.tie_weights()
    model.is_loaded_in_8bit, model.is_loaded_in_4bit = bits == 8, bits == 4
    model.eval().requires_grad_(False)
    return Base(model, None, "random", bits, device, compute, "", "", stage=stage)  # type: ignore[arg-type]  # no tokenizer


def rows(tokens: int) -> list[Example]:
    """Rows of `tokens` positions in all."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.empty(tokens // 4).log_normal_(3.74, 0.76, generator=generator).long().clamp(4, 800).tolist()
    examples: list[Example] = []
    while tokens > 0:
        size = min(sizes.pop(), tokens)
        ids = torch.randint(4, 200_000, (size,), generator=generator).tolist()
        examples.append(Example([*ids, 2], [True] * (size + 1)))
        tokens -= size
    return examples


def plan_of(chosen: argparse.Namespace, loaded: LoadedModel, pipeline: Pipeline) -> StagePlan | None:
    """What the fused blocks of this stage keep; None: they do not run."""
    if pipeline.distributed.device.type != "cuda" or chosen.kernels == "plain":
        return None
    reason = fast_paths.unsupported("fused-blocks", loaded)
    assert not reason, reason
    longest = max(len(example.token_ids) - 1 for example in rows(chosen.tokens))
    tokens = StepTokens([BLOCK_ROWS.round_up(chosen.tokens)], longest, chosen.micro_batch_tokens)
    held, (free, _) = torch.cuda.memory_allocated(), torch.cuda.mem_get_info()
    budget = int((free + held) * 0.92)
    return plan_stage(loaded, pipeline.stages, tokens, chosen.memory, held, budget, pipeline.distributed)


def make_trainer(chosen: argparse.Namespace, distributed: Distributed) -> tuple[Trainer, StagePlan | None]:

    shape = tuple(chosen.shape) if chosen.shape else SIZES[chosen.size]
    width, layers = shape[0], shape[2]
    stages = split(layers, [1.0] * layers, VOCABULARY / (12 * width), distributed.world)
    pipeline = Pipeline(distributed, stages)
    base = random_stage(shape, chosen.bits, distributed.device, pipeline.stage)
    config = TrainConfig(bits=chosen.bits, lora_dropout=0.0, learning_rate=1e-4)
    torch.manual_seed(0)
    on_card = distributed.device.type == "cuda"
    kernels = (
        ("flex-attention", "quantized-linear", "chunked-loss") if on_card else ("quantized-linear", "chunked-loss")
    )
    loaded = LoadedModel(base, attach_adapter(base, config), kernels)
    fast_paths.install_kernels(loaded.model, kernels)
    optimizer = make_optimizer(loaded.model, config, 1e-4)
    options = ForwardOptions(kernels, recompute=chosen.memory == "lean")
    packing = PackPlan(8192, 256 if on_card else 8, chosen.micro_batch_tokens)
    if (plan := plan_of(chosen, loaded, pipeline)) is not None:
        stack = fast_paths.make_block_stack(loaded, plan.memory, plan.lengths)
        options = ForwardOptions(("chunked-loss",), block_stack=stack)
        packing = PackPlan(plan.memory.tokens, 64, plan.memory.tokens, bucketed=True)
        pipeline = Pipeline(distributed, stages, plan.cost)
    trainer = Trainer(
        loaded,
        config,
        options,
        packing,
        optimizer,
        make_lr_scheduler(optimizer, config, chosen.steps),
        distributed=distributed,
        pipeline=pipeline,
    )
    return trainer, plan


def product_rate(width: int, tokens: int, device: torch.device) -> float:
    """FLOP/s that this card reaches in the largest product of a block, bfloat16, forward and backward, when nothing else
    runs: the bound of a step."""
    weight = torch.randn(4 * width, width, device=device, dtype=torch.bfloat16)
    x, y = (torch.randn(tokens, n, device=device, dtype=torch.bfloat16) for n in (width, 4 * width))
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
    times = []
    for _ in range(13):
        marks[0].record()
        torch.mm(x, weight.T), torch.mm(y, weight)
        marks[1].record()
        torch.cuda.synchronize()
        times.append(marks[0].elapsed_time(marks[1]) / 1e3)
    return 4 * tokens * weight.numel() / statistics.median(times[WARM_UP:])


def measure(chosen: argparse.Namespace, distributed: Distributed) -> dict[str, object]:
    began = time.perf_counter()
    (trainer, plan), examples = make_trainer(chosen, distributed), rows(chosen.tokens)
    made = time.perf_counter() - began
    trainer.align()
    assert trainer.pipeline is not None
    seconds, losses, counts = [], [], StepCounts.of_examples(examples)
    for _ in range(chosen.steps):
        began = time.perf_counter()
        losses.append(take_step(trainer, trainer.batches(examples), counts).result().loss)
        seconds.append(time.perf_counter() - began)
    second = statistics.median(seconds[WARM_UP:])
    config = trainer.loaded.base.model.config
    weights = config.n_layer * 12 * config.hidden_size**2 + VOCABULARY * config.hidden_size
    flops = 4 * weights * chosen.tokens / second / distributed.world
    peaks = distributed.each(peak_memory(distributed.device))
    figures: dict[str, object] = {}
    if distributed.device.type == "cuda":
        bound = product_rate(config.hidden_size, min(8192, chosen.tokens), distributed.device)
        figures = {"bound_tflops": round(bound / 1e12, 1), "share_of_bound": round(flops / bound, 4)}
    return {
        **figures,
        "stages": [str(stage) for stage in trainer.pipeline.stages],
        "bits": chosen.bits,
        "positions": chosen.tokens,
        "micro_batches": len(trainer.batches(examples)),
        "kernels": "plain" if plan is None else "fused-blocks",
        "kept_blocks": distributed.each(-1 if plan is None else plan.memory.full),
        "recomputed": trainer.options.recompute,
        "seconds_to_make": round(made, 1),
        "first_step_seconds": round(seconds[0], 1),
        "seconds": round(second, 4),
        "tokens_per_second": round(counts.tokens / second, 1),
        "tflops_a_card": round(flops / 1e12, 1),
        "peak_gib": [round(peak / 2**30, 2) for peak in peaks],
        "forecast_gib": [] if plan is None else [round(peak / 2**30, 2) for peak in plan.peaks],
        "losses": [round(losses[0], 4), round(losses[-1], 4)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="7b1")
    parser.add_argument("--shape", type=int, nargs=3, metavar=("WIDTH", "HEADS", "BLOCKS"), help="in place of --size")
    parser.add_argument("--bits", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=8192, help="positions of a step")
    parser.add_argument("--micro-batch-tokens", type=int, default=8192)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--memory", choices=("auto", "fast", "lean"), default="fast", help="auto: of the fused blocks")
    parser.add_argument("--kernels", choices=("fused", "plain"), default="fused")
    parser.add_argument("--device", default="auto")
    chosen = parser.parse_args()
    with joined(chosen.device) as distributed:
        assert distributed.has_others, "start it with torchrun, as its first lines show"
        figures = measure(chosen, distributed)
        if distributed.is_first:
            print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
