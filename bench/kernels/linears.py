"""What the pieces of a training step cost on this card: matrix products, wide weights, and each arrangement of the two.

    python -m bench.kernels.linears [--tokens 1024]

Prints TFLOP/s of bloom-7b1's four products and of the head's, milliseconds of attention, and GB/s of making int8 and
NF4 wide."""

# ruff: noqa: B023  # each lambda is called before its loop goes on

from __future__ import annotations

import argparse
import json
from typing import Any

import torch
from triton.testing import do_bench

SHAPES = {
    "qkv": (12288, 4096),
    "dense": (4096, 4096),
    "up": (16384, 4096),
    "down": (4096, 16384),
    "head": (250_880, 4096),
}


def time_ms(function: Any) -> float:
    return float(do_bench(function, warmup=50, rep=200, return_mode="median"))


def products(tokens: int) -> dict[str, float]:
    """TFLOP/s forward (x W^T) and backward (y W)."""
    found = {}
    for name, (N, K) in SHAPES.items():
        weight = torch.randn(N, K, device="cuda", dtype=torch.bfloat16)
        x, y = (torch.randn(tokens, n, device="cuda", dtype=torch.bfloat16) for n in (K, N))
        work = 2 * tokens * N * K / 1e9
        found[f"{name} forward"] = work / time_ms(lambda: torch.mm(x, weight.T))
        found[f"{name} backward"] = work / time_ms(lambda: torch.mm(y, weight))
    return found


def widening() -> dict[str, float]:
    """GB/s read and written."""
    from bitsandbytes.functional import quantize_4bit

    from florilegium.fast import dequantize_kernel

    found = {}
    for name in ("qkv", "dense", "up", "down"):
        N, K = SHAPES[name]
        codes = torch.randint(-127, 128, (N, K), dtype=torch.int8, device="cuda")
        out = torch.empty(N, K, dtype=torch.bfloat16, device="cuda")
        found[f"int8 {name}"] = 3 * N * K / time_ms(lambda: dequantize_kernel.dequantize_int8(codes, None, out)) / 1e6
        packed, state = quantize_4bit(
            torch.randn(N, K, device="cuda", dtype=torch.bfloat16),
            quant_type="nf4",
            blocksize=64,
            compress_statistics=True,
        )
        found[f"nf4 {name}"] = 2.5 * N * K / time_ms(lambda: dequantize_kernel.dequantize_nf4(packed, state, out)) / 1e6
    return found


def attention(tokens: int) -> dict[str, float]:
    """Milliseconds of attention's kernels at 7b1's 32 heads of 128, forward and backward,"""
    from florilegium.fast.training import attention_grad_kernel, attention_kernel
    from florilegium.reference import alibi_slopes

    torch.manual_seed(0)
    sizes = torch.empty(tokens // 8).log_normal_(3.74, 0.76).long().clamp(4, 800)
    start = torch.zeros(tokens, dtype=torch.int32)
    end = torch.full((tokens,), tokens, dtype=torch.int32)
    place = 0
    for size in sizes.tolist():
        start[place:], end[place : place + size] = min(place, tokens), min(place + size, tokens)
        place += size
    start, end = start.cuda(), end.cuda()
    qkv = torch.randn(tokens, 32, 3, 128, device="cuda", dtype=torch.bfloat16)
    scale, bias = torch.rand(32, 3, 128, device="cuda"), torch.randn(32, 3, 128, device="cuda")
    slopes, grads = alibi_slopes(32, "cuda"), torch.empty_like(qkv)
    parts = [t.unbind(-2) for t in (qkv, scale, bias, grads)]
    out, lse = attention_kernel.attention(*parts[:3], start, slopes)
    grad = torch.randn_like(out)
    found = {"forward": time_ms(lambda: attention_kernel.attention(*parts[:3], start, slopes))}
    found["backward"] = time_ms(
        lambda: attention_grad_kernel.attention_grad(
            *parts[:3], out, lse, grad, parts[3], start_T=start, end_T=end, slopes_H=slopes
        )
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024])
    parser.add_argument("--attention", action="store_true", help="attention alone")
    arguments = parser.parse_args()
    for tokens in arguments.tokens:
        print(json.dumps({"tokens": tokens, **{k: round(v, 3) for k, v in attention(tokens).items()}}), flush=True)
        if not arguments.attention:
            print(json.dumps({"tokens": tokens, **{k: round(v, 1) for k, v in products(tokens).items()}}), flush=True)
    if not arguments.attention:
        print(json.dumps({k: round(v, 1) for k, v in widening().items()}), flush=True)


if __name__ == "__main__":
    main()
