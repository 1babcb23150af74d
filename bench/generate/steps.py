"""A step of decoding at BLOOM's sizes, without a checkpoint: for tuning the fast decoder (`fast/decoding/decoder.py`).

    python -m bench.generate.steps --size 7b1 --bits 8 --batch 1 64 [--context 100] [--target-modules all-linear] [--int8-head] [--profile]
    python -m bench.generate.steps --tiles 1 64            each product alone: GB/s of weights for several tiles

Prints milliseconds a step and tokens/s (replays of the recorded step, random texts at that context), and the floor:
bytes of weights, head and cache over this card's own copy bandwidth."""

# ruff: noqa: B023  # each lambda is called before its loop goes on

from __future__ import annotations

import argparse
import itertools
import json
import time
from typing import Any

import torch
from triton.testing import do_bench

from bench.common.gpu_model import SIZES, random_base


def copy_bandwidth() -> float:
    """Bytes/s read and written by a large copy on the device."""
    a = torch.empty(2 * 2**30, dtype=torch.uint8, device="cuda")
    b = torch.empty_like(a)
    return 2 * a.numel() / float(do_bench(lambda: b.copy_(a), return_mode="median")) * 1000


def with_adapter(base: Any, targets: str) -> Any:
    from florilegium.config import make_config
    from florilegium.model import attach_adapter

    model = attach_adapter(base, make_config({"bits": base.bits, "target_modules": targets}))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.02)
    return model.eval()


def step_time(
    base: Any, model: Any, batch: int, context: int, temperature: float, profile: bool, int8_head: bool = False
) -> dict[str, Any]:
    from florilegium.config import SamplingSettings
    from florilegium.fast.decoding.decoder import Decoder
    from florilegium.model.families import head_weight
    from florilegium.model.families.bloom import bloom_model

    capacity = -(-(context + 80) // 64) * 64
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    began = time.perf_counter()
    head = head_weight(model).detach()
    sizes = {"slots": batch, "capacity": capacity, "max_rows": max(64, batch)}
    decoder = Decoder(bloom_model(model), head, eos=-5, **sizes, int8_head=int8_head)
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(4, 250_000, (batch, context), generator=generator).tolist()
    rule = SamplingSettings(temperature=temperature, top_p=0.9 if temperature else 1.0)
    slots = list(range(batch))
    limits, chances = [capacity - context] * batch, [torch.rand(capacity - context) for _ in slots]
    decoder.admit(slots, limits, chances, [rule] * batch, [0] * batch, prompts)
    for b, prompt in enumerate(prompts):
        for start in range(0, context, decoder.rows[-1]):
            part = prompt[start : start + decoder.rows[-1]]
            wanted = [len(part) - 1] if start + len(part) == context else []
            decoder.step([(b, token, start + i) for i, token in enumerate(part)], wanted)
    rows = [(b, decoder.NEXT, decoder.NEXT) for b in slots]
    decoder.step(rows, slots).tokens()
    first = time.perf_counter() - began
    steps = 40
    events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
    began = time.perf_counter()
    events[0].record()
    for _ in range(steps):
        step = decoder.step(rows, slots)
    events[1].record()
    step.tokens()
    wall = (time.perf_counter() - began) / steps * 1000
    milliseconds = events[0].elapsed_time(events[1]) / steps
    if profile:
        show(lambda: [decoder.step(rows, slots).tokens() for _ in range(3)])
    stored = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad is False)
    stored -= head.numel() if int8_head else 0
    cache = decoder.cache.numel() * 2 * (context + 20) / capacity
    return {
        "batch": batch, "context": context, "temperature": temperature, "ms": round(milliseconds, 3), "wall_ms": round(wall, 3),
        "tokens_per_second": round(batch / wall * 1000, 1), "floor_bytes": stored + int(cache), "first_seconds": round(first, 1),
        "above_weights_gib": round((torch.cuda.max_memory_allocated() - before) / 2**30, 2),
        "cache_gib": round(decoder.cache.numel() * 2 / 2**30, 2),
    }  # fmt: skip


def show(function: Any) -> None:
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as found:
        function()
    rows = sorted(found.key_averages(), key=lambda e: -e.self_device_time_total)[:14]
    for row in rows:
        print(f"{row.self_device_time_total / 3000:8.3f} ms {row.count / 3:7.0f} x  {row.key[:90]}")


def tiles(Ms: list[int], part: str) -> None:
    """Times every tile that fits. Compiling takes most of it: `--part 0/8` and so on compile a share each and time
    nothing."""
    from florilegium.fast.decoding import matmul_kernel
    from florilegium.fast.decoding.matmul_kernel import GELU, PARTIAL, SCORES
    from florilegium.fast.decoding.stored_weight import StoredWeight, padded, split_of

    W, F, V = 4096, 16384, 250_880
    ones, number = torch.ones(1, device="cuda"), 0
    shapes = (
        ("up", F, W, GELU), ("dense", W, W, PARTIAL), ("down", W, F, PARTIAL), ("qkv", 3 * W, W, GELU), ("head", V, W, SCORES)
    )  # fmt: skip
    for name, N, K, epilogue in shapes:
        if name == "head" and min(Ms) >= 128:
            continue  # only rows whose next token is wanted meet the head
        form = 16 if name == "head" else 8
        copies = 1 if name == "head" else -(-(256 << 20) // (N * K))
        dtype, view = (torch.bfloat16, torch.bfloat16) if form == 16 else (torch.int8, torch.int32)
        codes = [
            torch.randint(-127, 128, (N, K), dtype=torch.int8, device="cuda").to(dtype).view(view)
            for _ in range(1 if part else copies)
        ]
        for M in Ms:
            BM = padded(M)[0]
            x = torch.randn(-(-M // BM) * BM, K, device="cuda").bfloat16()
            out = torch.empty(
                8 * M * N if epilogue == PARTIAL else M * N,
                device="cuda",
                dtype=torch.bfloat16 if epilogue == GELU else torch.float32,
            )
            results = []
            splits = (2, 4, 8) if name in ("dense", "down") else (1,)
            sweep = itertools.product((BM,), (64, 128), (128, 256), (4, 8), (3, 4, 6), splits)
            if M >= 128:
                sweep = itertools.product(
                    (128, 256),
                    (64, 128),
                    (64, 128),
                    (4, 8),
                    (3, 4),
                    (split_of(N, K) if epilogue == PARTIAL else 1,),
                )
            for BM, BN, BK, warps, stages, split in sweep:
                number += 1
                if K % (split * BK) or (part and number % int(part.split("/")[1]) != int(part.split("/")[0])):
                    continue
                tile = {"BM": BM, "BN": BN, "BK": BK, "num_warps": warps, "STAGES": stages}
                matmul_kernel.tile = lambda *_, tile=tile, roomy: tile
                rest = (torch.rand(N, device="cuda"), torch.zeros(N, device="cuda"), N, K, form, (ones, ones), split)
                turn = itertools.cycle([StoredWeight(c, *rest) for c in codes])

                def once() -> None:
                    matmul_kernel.stored_matmul(x, next(turn), out, M, epilogue, split=split)

                try:
                    ms = 0.0 if part else float(do_bench(once, warmup=5, rep=20, return_mode="median"))
                    once()
                except Exception as error:
                    if "out of resource" not in str(error):
                        print(name, M, tile, str(error)[:80])
                    continue
                results.append((ms, tile, split))
            for ms, tile, split in sorted(results, key=lambda r: r[0])[: 0 if part else 4]:
                rate = f"{N * K * dtype.itemsize / ms / 1e6:.0f} GB/s {2 * M * N * K / ms / 1e9:.0f} TFLOP/s"
                print(f"{name:6} M={M:<4} {ms * 1000:8.1f} us  {rate}  {list(tile.values())} split {split}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="7b1")
    parser.add_argument("--bits", type=int, default=8)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--context", type=int, default=100)
    parser.add_argument("--temperature", type=float, nargs="+", default=[0.0, 0.7])
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--target-modules", default="auto")
    parser.add_argument("--int8-head", action="store_true")
    parser.add_argument("--tiles", type=int, nargs="*")
    parser.add_argument("--part", default="")
    arguments = parser.parse_args()
    if arguments.tiles:
        tiles(arguments.tiles, arguments.part)
        return
    bandwidth = copy_bandwidth()
    torch.cuda.empty_cache()
    base = random_base(arguments.size, arguments.bits)
    model = with_adapter(base, arguments.target_modules)
    for batch, temperature in itertools.product(arguments.batch, arguments.temperature):
        found = step_time(
            base,
            model,
            batch,
            arguments.context,
            temperature,
            arguments.profile and temperature == arguments.temperature[-1],
            arguments.int8_head,
        )
        floor = found.pop("floor_bytes") / bandwidth * 1000
        line = {
            "size": arguments.size,
            "bits": arguments.bits,
            "lora_on": arguments.target_modules,
            **found,
            "floor_ms": round(floor, 2),
            "copy_tb_s": round(bandwidth / 1e12, 2),
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
