"""What products of 8-bit activations with 8-bit weights would cost the task, before anybody writes their kernels: the same
rows trained with each product rounded as such a kernel would round it, in float32 on any machine.

    python -m bench.quality.int8_compute [--steps 200] [--seeds 0 1 2] [--kinds int8 int8-rotated fp8] [--backward]
    python -m bench.quality.int8_compute --model FOLDER --untrained --text FILE     the base's own loss, of a real model

int8: each row of x by its largest number, times the int8 weight as it is stored. int8-rotated: both sides turned by a
Hadamard matrix with random signs along K, in blocks of the largest power of two in K up to 256, which spreads what a few
columns hold (QuaRot, arXiv:2404.00456); the weight is rounded anew. fp8: e4m3, a scale a row, both sides. --backward:
gradients are rounded likewise, before the same weight. Trained: the loss of held-out rows, by an adapter that was trained
so and is read without rounding; then the difference from plain training, paired by row, and its share of the loss."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from florilegium.config import make_config
from florilegium.evaluation.confidence import difference
from florilegium.evaluation.losses import example_losses
from florilegium.fast import frozen_linear, install_kernels
from florilegium.model import LoadedModel, load_base
from florilegium.runs.evaluate import read_eval_data
from florilegium.runs.recorder import NullView
from florilegium.runs.train import train_config
from florilegium.tokens import Example, encode, text_ids

KINDS = ("int8", "int8-rotated", "fp8")
KERNELS = "quantized-linear,chunked-loss"
FP8_MOST = 448.0  # of e4m3
LARGEST_BLOCK = 256


def rounded(x: torch.Tensor, kind: str) -> torch.Tensor:
    """`x`, each row on the grid of its largest number."""
    most = x.abs().amax(-1, keepdim=True).clamp_min(1e-30)
    if kind == "fp8":
        return (x / most * FP8_MOST).to(torch.float8_e4m3fn).float() * (most / FP8_MOST)
    return (x / most * 127).round() * (most / 127)


def rotation(size: int) -> torch.Tensor:
    """An orthogonal matrix [B, B] of +-1 / sqrt(B), B the largest power of two in `size` up to LARGEST_BLOCK."""
    block = min(size & -size, LARGEST_BLOCK)
    matrix = torch.ones(1, 1)
    while len(matrix) < block:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    signs = torch.randint(0, 2, (block,), generator=torch.Generator().manual_seed(block)) * 2 - 1
    return matrix * signs[:, None] / block**0.5


def rotated(x: torch.Tensor, *, back: bool = False) -> torch.Tensor:
    turn = rotation(x.shape[-1])
    return (x.unflatten(-1, (-1, len(turn))) @ (turn.T if back else turn)).flatten(-2)


class RoundedLinear(torch.autograd.Function):
    """As `FrozenLinear`, whose place it takes, with both sides of each product on their grid."""

    kind, backward_too = "int8", False

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: Any, bias_N: torch.Tensor | None) -> torch.Tensor:
        kind, weight_NK, given = RoundedLinear.kind, weight(torch.float32), x.float()
        if kind == "int8-rotated":
            given, weight_NK = rotated(given), rounded(rotated(weight_NK), kind)
        elif kind == "fp8":
            weight_NK = rounded(weight_NK, kind)
        ctx.weight_NK = weight_NK
        return torch.nn.functional.linear(
            rounded(given, kind), weight_NK, None if bias_N is None else bias_N.float()
        ).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        grad = grads[0].float()
        if RoundedLinear.backward_too:
            # the weight's scale belongs to what is summed here, so it goes into the gradient before that is rounded
            scale_N = ctx.weight_NK.abs().amax(1)
            grad_in = rounded(grad * scale_N, RoundedLinear.kind) @ (ctx.weight_NK / scale_N[:, None].clamp_min(1e-30))
        else:
            grad_in = grad @ ctx.weight_NK
        if RoundedLinear.kind == "int8-rotated":
            grad_in = rotated(grad_in, back=True)
        return grad_in.to(grads[0].dtype), None, None


@contextlib.contextmanager
def rounding(kind: str, backward: bool) -> Iterator[None]:
    """Inside, frozen linears compute so; `plain`: as ever."""
    ours = frozen_linear.FrozenLinear
    RoundedLinear.kind, RoundedLinear.backward_too = kind, backward
    # a class is put in another's place, which mypy allows to none
    frozen_linear.FrozenLinear = ours if kind == "plain" else RoundedLinear  # type: ignore[misc,assignment]
    try:
        yield
    finally:
        frozen_linear.FrozenLinear = ours  # type: ignore[misc]  # as above


def trained_losses(flags: argparse.Namespace, kind: str, seed: int) -> list[np.ndarray]:
    """Of held-out rows, by an adapter that was trained with this rounding."""
    folder = Path(flags.folder) / f"{kind}{'-backward' if flags.backward else ''}-{seed}"
    values = {"data": flags.data, "model": flags.model, "bits": 8, "seed": seed, "max_steps": flags.steps}
    # float32, so that what is rounded is the products alone
    values |= {"verdict_texts": 0, "eval_every": flags.steps, "kernels": KERNELS, "device": "cpu", "dtype": "float32"}
    values |= {"output": str(folder), "force": True}
    with rounding(kind, flags.backward):
        tuned = train_config(make_config(values), NullView()).tuned
    material = read_eval_data(folder)
    return example_losses(tuned.loaded, encode(tuned.base.tokenizer, tuned.template, material.held_out).examples)


def untrained_losses(flags: argparse.Namespace, kind: str) -> list[np.ndarray]:
    """Of a text, by the base alone."""
    base = load_base(flags.model, bits=8, device=torch.device("cpu"), compute="float32")
    install_kernels(base.model, ("quantized-linear",))
    paragraphs = [p for p in Path(flags.text).read_text(encoding="utf-8").split("\n") if len(p) > 200]
    pieces = [ids[:256] for ids in text_ids(base.tokenizer, paragraphs[:: max(1, len(paragraphs) // flags.windows)])]
    examples = [Example(ids, [True] * len(ids)) for ids in pieces[: flags.windows]]
    with rounding(kind, False):
        return example_losses(LoadedModel(base, base.model, ("quantized-linear",)), examples)


def say(kind: str, losses: Sequence[np.ndarray], plain: Sequence[np.ndarray]) -> None:
    tokens = [len(row) for row in losses]
    mean = sum(float(row.sum()) for row in losses) / sum(tokens)
    line = f"{kind:<14} loss {mean:.4f} on {len(losses)} rows"
    change = difference([float(row.sum()) for row in losses], [float(row.sum()) for row in plain], tokens)
    if change is not None and change.value:
        shares = [value / (mean - change.value) for value in (change.value, change.low, change.high)]
        line += f", {change.value:+.4f}: {shares[0]:+.3%} ({shares[1]:+.3%} to {shares[2]:+.3%} over rows alone)"
    print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", default="sample")
    parser.add_argument("--model", default="seedling")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--backward", action="store_true", help="round gradients too")
    parser.add_argument("--untrained", action="store_true", help="the base's loss of --text")
    parser.add_argument("--text", help="of one paragraph a line")
    parser.add_argument("--windows", type=int, default=24)
    parser.add_argument("--folder", default="runs/int8-compute")
    flags = parser.parse_args()
    seeds = [0] if flags.untrained else flags.seeds
    plain: list[list[np.ndarray]] = []
    for kind in ("plain", *flags.kinds):
        found = [untrained_losses(flags, kind) if flags.untrained else trained_losses(flags, kind, s) for s in seeds]
        plain = plain or found
        say(kind, *([row for losses in side for row in losses] for side in (found, plain)))
        for seed, losses, before in zip(seeds, found, plain, strict=True):
            if len(seeds) > 1 and kind != "plain":
                say(f"  seed {seed}", losses, before)


if __name__ == "__main__":
    main()
