"""Training's products with int8 codes as they are stored (`int8_matmul.py`), beside cuBLAS with weights that are wide
already, and with weights that are made wide first: a BLOOM block's four, forward and backward, GELU included where it
follows.

    python -m bench.kernels.int8_matmul [--tokens 768 1024 2048 8192] [--size 7b1]

All ways of a product take turns in one run, each over four weights one after the other, so that none stays in the L2
cache. They share one clock, so it is cycles that are compared, not what each draws of the card's power: for that,
`bench/train/steps.py`. Prints microseconds a product (medians), TFLOP/s of the first two, and the sum of a block."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch

from bench.common.gpu_model import SIZES

WEIGHTS = 4
Call = Callable[[], Any]


def recorded(calls: list[Call]) -> Any:
    for call in calls:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return graph


def in_turn(graphs: list[Any], rounds: int = 9, inner: int = 3) -> list[float]:
    """Microseconds a call, medians."""
    times: list[list[float]] = [[] for _ in graphs]
    for _ in range(rounds):
        for graph, found in zip(graphs, times, strict=True):
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            for _ in range(inner):
                graph.replay()
            end.record()
            torch.cuda.synchronize()
            found.append(1000 * begin.elapsed_time(end) / inner / WEIGHTS)
    return [statistics.median(found) for found in times]


def ways(name: str, back: bool, T: int, N: int, K: int) -> list[list[Call]]:
    """Stored, wide already, made wide: a list of calls each, one a weight."""
    from florilegium.fast.hopper import int8_matmul
    from florilegium.fast.training import dequantize_kernel, gelu_kernel
    from florilegium.fast.unpack_kernel import PAIR_ORDER

    codes = [torch.randint(-127, 128, (N, K), dtype=torch.int8, device="cuda") for _ in range(WEIGHTS)]
    copies = [c.bfloat16() for c in codes]
    buffer = torch.empty_like(copies[0])
    x = torch.randn(T, N if back else K, device="cuda", dtype=torch.bfloat16)
    F = K if back else N
    scale, bias, kept = torch.rand(F, device="cuda") / 1e3, torch.randn(F, device="cuda").bfloat16(), None
    gelu = name == ("down" if back else "up")
    if gelu and back:
        kept = torch.randn(T, F, device="cuda", dtype=torch.bfloat16)

    def stored(c: torch.Tensor) -> Any:
        if gelu:
            return (
                int8_matmul.backward_gelu(x, c, kept)
                if back
                else int8_matmul.forward_gelu(x, c, scale, bias, PAIR_ORDER)
            )
        return int8_matmul.backward(x, c) if back else int8_matmul.forward(x, c)

    def wide(w: torch.Tensor) -> Any:
        y = torch.mm(x, w if back else w.T)
        if gelu and back:
            gelu_kernel.gelu_grad(kept, scale, bias, y)
        elif gelu:
            gelu_kernel.gelu(y, scale, bias)

    def made(c: torch.Tensor) -> Any:
        dequantize_kernel.dequantize_int8(c, None, buffer)
        wide(buffer)

    return [
        [(lambda way=way, w=w: way(w)) for w in weights]
        for way, weights in ((stored, codes), (wide, copies), (made, codes))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[768, 1024, 2048, 8192])
    parser.add_argument("--size", choices=SIZES, default="7b1")
    arguments = parser.parse_args()
    W = SIZES[arguments.size][0]
    print(torch.cuda.get_device_name(), arguments.size)
    for T in arguments.tokens:
        sums = [0.0, 0.0, 0.0]
        for name, (N, K) in {"qkv": (3 * W, W), "dense": (W, W), "up": (4 * W, W), "down": (W, 4 * W)}.items():
            for back in (False, True):
                found = in_turn([recorded(calls) for calls in ways(name, back, T, N, K)])
                sums = [a + b for a, b in zip(sums, found, strict=True)]
                rates = [2e-6 * T * N * K / found[i] for i in range(2)]
                line = "  ".join(f"{us:7.1f}" for us in found)
                print(
                    f"{T:5} {name:5} {'backward' if back else 'forward':8} {line}   {rates[0]:.0f} {rates[1]:.0f}",
                    flush=True,
                )
        print(
            f"{T:5} a block        {'  '.join(f'{us:7.1f}' for us in sums)}   stored / wide {sums[0] / sums[1]:.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
