"""A training step at bloom-7b1's shape under different plans of memory, without a checkpoint or data: for tuning the
fast room.

    python -m bench.train.steps --size 7b1 --bits 8 --tokens 1008 2048 --plans copies fast lean [--profile]
    python -m bench.train.steps --size 7b1 --tokens 2048 8192 --plans lean offload offload:20

A plan is a name, or three numbers (ActivationPlan): blocks that keep all, that keep both residuals, that have bf16 copies, such as 0,21,0.
offload:20 holds the weights of 20 blocks in host memory, offload those of all (in the order given: none comes back to the card), and
prints the link's rate and its floor, the time of its copies alone. `forecast_gib` is what the memory plan says of the same step.
Documents have the lengths of english_quotes (log-normal, median 42 tokens). A step is forward, loss, backward, clip and AdamW.
--tokens counts positions; a document's end-of-text is a target and takes none (`tokens/pack.py`), so a step is on some 2% more tokens, and
tokens/s counts those, as a training run does. Prints milliseconds (the mean of a run of steps without a sync), tokens/s, the peak, the
gradient's norm and the loss, and TFLOP/s as `bench/common/field_unit.py` counts them. --length 4096: full rows in place of quotes.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from dataclasses import fields, replace
from typing import Any

import torch

from bench.common.field_unit import in_the_fields_unit
from bench.common.gpu_model import SIZES, random_base

PLANS = {"copies": (10**6, 10**6, 10**6), "fast": (10**6, 10**6, 0), "lean": (0, 10**6, 0), "least": (0, 0, 0)}


def batch_of(tokens: int, length: int | None = None) -> Any:
    from florilegium.tokens import Example, PackPlan, pack

    generator = torch.Generator().manual_seed(0)
    sizes = torch.empty(tokens // 8).log_normal_(3.74, 0.76, generator=generator).long().clamp(4, 800).tolist()
    if length:
        sizes = [length] * -(-tokens // length)
    examples, left = [], tokens
    while left > 0:
        size = min(sizes.pop(), left)
        ids = torch.randint(4, 200_000, (size,), generator=generator).tolist()
        examples.append(Example([*ids, 2], [True] * (size + 1)))
        left -= size
    (batch,) = pack(examples, PackPlan(tokens, 64, 2 * tokens, bucketed=True))
    return batch


def stepper(base: Any, model: Any, batch: Any, options: Any, graph: bool, guards: bool = False) -> Any:
    """A step as a function. With `guards` it also does what the training loop does so that a NaN moves no weight."""
    from florilegium.fast import CudaGraphRunner
    from florilegium.model import LoadedModel, token_losses

    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer: Any = torch.optim.AdamW(parameters, lr=1e-4, fused=True)

    for parameter in parameters:
        if parameter.grad is None:  # another step's recording may add to it where it is
            parameter.grad = torch.zeros_like(parameter)

    def gradients(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        losses = token_losses(LoadedModel(base, model), replace(batch, **inputs), options)
        loss = losses.sum() / batch.num_targets
        torch._foreach_add_([p.grad for p in parameters], torch.autograd.grad(loss, parameters))
        return loss.detach()

    run = CudaGraphRunner(gradients, [p.grad for p in parameters if p.grad is not None]) if graph else gradients
    inputs = {f.name: getattr(batch, f.name) for f in fields(batch) if isinstance(getattr(batch, f.name), torch.Tensor)}

    def step() -> tuple[torch.Tensor, torch.Tensor]:
        loss = run(
            inputs if graph else {name: t.pin_memory().to("cuda", non_blocking=True) for name, t in inputs.items()}
        )
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        if guards:  # torch's fused AdamW reads these two where they are, and takes no step if the first is 1
            optimizer.found_inf = (~(torch.isfinite(loss) & torch.isfinite(norm))).float()
            optimizer.grad_scale = None
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        return loss, norm

    return step


def in_host_memory(base: Any) -> Any:
    """The weights of all blocks in host memory."""
    from florilegium import fast
    from florilegium.fast.modules import base_linear, wrapped_linears
    from florilegium.model.families.bloom import bloom_model

    host = fast.HostBlocks(base.device)
    for number, block in enumerate(bloom_model(base.model).h):
        for kind, linear in zip(
            ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"), wrapped_linears(block), strict=True
        ):
            host.take(number, kind, base_linear(linear))
    torch.cuda.empty_cache()
    return host


def forecast(
    model: Any, host: Any, numbers: tuple[int, ...], tokens: int, figures: dict[str, float]
) -> dict[str, float]:
    """What the memory plan says of a step of `tokens` tokens, in GiB, and how far above the peak; of blocks in host
    memory also the link's rate and the share of a step that its copies alone take."""
    from florilegium import fast
    from florilegium.model.families.bloom import BLOOM, bloom_model
    from florilegium.model.memory_plan import model_shape, peak_bytes

    bloom = bloom_model(model)
    stored = {id(p): p.numel() * p.element_size() for p in model.parameters() if not p.requires_grad}
    state = [getattr(p, "SCB", None) for p in model.parameters()] + [
        part
        for p in model.parameters()
        if (s := getattr(p, "quant_state", None)) is not None
        for part in (s.absmax, s.state2.absmax)
    ]
    base_bytes = sum(stored.values()) + sum(t.numel() * t.element_size() for t in state if t is not None)
    streamed = host is not None and len(host)
    if streamed:  # of the blocks in host memory two are here
        base_bytes -= (len(host) - 2) * host.block_bytes
    shape = model_shape(BLOOM, model, base_bytes, reads_int8=fast.supports_int8_matmul(bloom))
    L = shape.num_layers
    expected = peak_bytes(shape, tokens, *(min(L, n) for n in numbers)) / 2**30
    found = {"forecast_gib": round(expected, 2), "above_peak": f"{100 * (expected / figures['peak_gib'] - 1):+.1f}%"}
    if streamed:
        rate = host.link_rate()
        floor = 1000 * 2 * (len(host) - 1) * host.block_bytes / rate  # the last block turns round where it is
        found |= {"offloaded": len(host), "link_gb_s": round(rate / 1e9, 1), "link_ms": round(floor, 1)}
        found["link_of_step"] = round(floor / figures["ms"], 3)
    return found


def measure(step: Any, repeats: int) -> dict[str, float]:
    torch.cuda.reset_peak_memory_stats()  # recording is part of the peak: what is replayed later takes that memory
    for _ in range(3):
        loss, norm = step()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(repeats):
        step()
    launched = time.perf_counter() - began
    torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    return {
        "ms": round(1000 * seconds / repeats, 2),
        "host_ms": round(1000 * launched / repeats, 2),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
        "loss": round(float(loss), 4),
        "gradient_norm": round(float(norm), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="7b1")
    parser.add_argument("--bits", type=int, default=8)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1008])
    parser.add_argument("--plans", nargs="+", default=list(PLANS))
    parser.add_argument("--dropout", type=float, default=0.05)
    parser.add_argument("--target-modules", default="auto")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--length", type=int, help="of every document, in place of the lengths of quotes")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--graph", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument(
        "--guards", action="store_true", help="what the guards against NaN cost, in turn with the step without them"
    )
    arguments = parser.parse_args()

    from florilegium import fast
    from florilegium.config import make_config
    from florilegium.model import ForwardOptions, attach_adapter
    from florilegium.model.families.bloom import bloom_model

    base = random_base(arguments.size, arguments.bits)
    settings = {"bits": arguments.bits, "lora_dropout": arguments.dropout, "lora_rank": arguments.rank}
    settings["target_modules"] = arguments.target_modules
    model = attach_adapter(base, make_config(settings))
    model.train()
    host: fast.HostBlocks | None = None
    for plan in arguments.plans:
        fast.install_kernels(model, ())
        if plan == "plain":
            fast.install_kernels(model, ("quantized-linear",))
            options = ForwardOptions(("flex-attention", "quantized-linear", "chunked-loss"))
        else:
            options = step = None  # the last plan's stack and recording give their memory back
            gc.collect()
            torch.cuda.empty_cache()
            numbers = (
                PLANS["lean" if plan.startswith("offload") else plan]
                if plan[0].isalpha()
                else tuple(map(int, plan.split(",")))
            )
            if plan.startswith("offload"):
                host = host or in_host_memory(base)
                host.keep_on_device(len(host) - int(plan.partition(":")[2] or len(host)))
            stack = fast.make_block_stack(bloom_model(model), *numbers, host=host)
            options = ForwardOptions(("chunked-loss",), block_stack=stack)
            del stack
        for tokens in arguments.tokens:
            batch = batch_of(tokens, arguments.length)
            step = stepper(base, model, batch, options, arguments.graph and plan != "plain")
            figures = measure(step, arguments.repeats)
            if plan != "plain":
                figures |= forecast(model, host, numbers, tokens, figures)
            a_second = 1000 / figures["ms"]
            rates = {
                "tokens_per_second": round(batch.num_tokens * a_second),
                "positions_per_second": round(tokens * a_second),
                **in_the_fields_unit(model.config, batch.num_tokens * a_second),
            }
            what = {"plan": plan, "bits": arguments.bits, "lora_on": arguments.target_modules, "positions": tokens}
            print(json.dumps({**what, **rates, **figures}), flush=True)
            if arguments.guards:
                guarded = stepper(
                    base,
                    model,
                    batch_of(tokens, arguments.length),
                    options,
                    arguments.graph and plan != "plain",
                    guards=True,
                )
                pairs = [(measure(step, 20)["ms"], measure(guarded, 20)["ms"]) for _ in range(5)]
                shares = sorted(100 * (with_guards / without - 1) for without, with_guards in pairs)
                print(
                    f"guards: {shares[2]:+.2f}% of a step (median of 5 pairs in turn; {shares[0]:+.2f} to {shares[-1]:+.2f})",
                    flush=True,
                )
            if arguments.profile:
                profile(step)


def profile(step: Any) -> None:
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    with record(activities=[ProfilerActivity.CUDA]) as recorded:
        step()
        torch.cuda.synchronize()
    print(recorded.key_averages().table(sort_by="cuda_time_total", row_limit=28, max_name_column_width=70))


if __name__ == "__main__":
    main()
