"""Training on one GPU at BLOOM's sizes beside the stock recipe, on the same rows of english_quotes, in one run.

    python -m bench.train.gpu --size 7b1 [--sides ours notebook tuned floor] [--json]
        [--steps 40] [--bits 8] [--memory auto|fast|lean] [--memory-limit 22]
    python -m bench.train.gpu --size 560m --sides float32 codes notebook ours --steps 50 --dropout 0 [--smallest 0]    the losses
    python -m bench.train.gpu --folder src/florilegium/seedling --sides float32 codes notebook ours ...                of the seedling

Random weights in a real checkpoint folder, LoRA r=16, the notebook's 16 rows an optimiser step. Each side runs in a
process of its own. Prints tokens/s that are not padding, milliseconds a step, the peak, ours over each other side; and
with `float32` or `codes` (the int8 base in float32) among the sides how far each other side's loss is from it, at every
step. --json: the same as JSON, the losses with it. `floor`: what this card's matrix products alone would allow.
--smallest 0 --memory fast: products read even small weights as they are stored (on Hopper). --card "RTX 3090": ours
takes the plan of that card on the one at hand: no instruction of a newer card, tiles of 99 KiB, 22 GiB."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.common.checkpoint import QUOTES, make_checkpoint
from bench.common.field_unit import in_the_fields_unit
from bench.common.gpu_model import SIZES
from florilegium.fast.card import CARDS, acting_as

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

CARD_GIB = {"T4": 14.0, "RTX 3090": 22.0, "RTX 4090": 22.0}  # what is left of it beside a desktop
PER_STEP = ("losses", "gradient_norms")
SIDES = ("ours", "notebook", "tuned", "float32", "codes", "floor")


def our_side(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    import torch

    from bench.train.stock import RATE, same_adapter
    from florilegium.config import make_config
    from florilegium.runs.prepare import prepare
    from florilegium.runs.recorder import NullView
    from florilegium.runs.setup import make_ready, make_trainer
    from florilegium.training import batch_sampler
    from florilegium.training.loop import start_step

    if arguments.smallest is not None:
        from florilegium.fast import support

        support.MIN_INT8_ELEMENTS = arguments.smallest
    names = ("bits", "memory", "memory_limit", "fast", "dropout", "target_modules")
    settings = {"warmup": 0.0, "schedule": "constant", "learning_rate": RATE, "held_out": 0.0, "split_by": "random"}
    settings["batching"] = "tile-aligned"  # as the other sides have it
    settings["batch_size"] = getattr(arguments, "batch_size", 16)
    config = make_config(
        {"data": str(arguments.data), "model": str(folder), **settings, **{n: getattr(arguments, n) for n in names}}
    )
    began = time.perf_counter()
    prepared = prepare(config, NullView())
    preparing, load_peak = time.perf_counter() - began, torch.cuda.max_memory_allocated()
    ready = make_ready(prepared)
    same_adapter(ready.loaded.model)
    plan, memory = ready.plan, ready.plan.memory
    trainer = make_trainer(ready)
    examples = prepared.training.examples
    order = batch_sampler(examples, plan.config)
    steps = [[examples[i] for i in order.step(number)] for number in range(arguments.steps)]
    torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    # Once over the same steps, so that each length is compiled or recorded; then timed, one step ahead as the loop is.
    results = [start_step(trainer, step, NullView()).result() for step in steps]
    first = time.perf_counter() - began
    began, waiting, tokens = time.perf_counter(), None, 0
    for step in steps:
        started = start_step(trainer, step, NullView())
        tokens += waiting.result().tokens if waiting else 0
        waiting = started
    tokens += waiting.result().tokens if waiting else 0
    seconds = time.perf_counter() - began
    return {
        "side": "ours",
        "tokens_per_second": round(tokens / seconds, 1),
        "ms_per_step": round(1000 * seconds / len(steps), 1),
        "tokens_per_step": round(tokens / len(steps), 1),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
        "forecast_gib": round(memory.peak / 2**30, 2) if memory else None,
        "plan": memory and [memory.full, memory.middle, memory.copies, memory.tokens],
        "load_peak_gib": round(load_peak / 2**30, 2),
        "prepare_seconds": round(preparing, 1),
        "first_seconds": round(first, 1),
        "fast": plan.kernels,
        "layers_reason": plan.layers_reason,
        "losses": [round(result.loss, 5) for result in results],
        "gradient_norms": [round(result.grad_norm, 5) for result in results],
    }


def stock(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    from transformers import AutoTokenizer

    from bench.train.stock import stock_side, tuned_side
    from florilegium.data import read_rows
    from florilegium.tokens import BatchSampler, encode

    rows = read_rows(arguments.data)
    examples = encode(AutoTokenizer.from_pretrained(folder), rows.template, rows.quotes).examples
    order = BatchSampler([len(e.token_ids) - 1 for e in examples], 16, 0, tile_aligned=True)
    steps = [[examples[i] for i in order.step(number)] for number in range(arguments.steps)]
    targets = ["query_key_value"] if arguments.target_modules == "auto" else arguments.target_modules
    if arguments.side == "tuned":
        return tuned_side(folder, steps, arguments.dropout, targets)
    return stock_side(folder, steps, arguments.side, arguments.dropout, targets)


def floor_side(arguments: argparse.Namespace) -> dict[str, Any]:
    """Tokens/s if a step were its matrix products alone, forward and backward, at the rate this card reaches on them at
    1,024 tokens."""
    import torch
    from triton.testing import do_bench

    config = json.loads((arguments.folder / "config.json").read_text())
    width, layers = config["hidden_size"], config["n_layer"]
    tokens, milliseconds, work = 1024, 0.0, 0.0
    shapes = [
        (3 * width, width, layers),
        (width, width, layers),
        (4 * width, width, layers),
        (width, 4 * width, layers),
    ]
    for outputs, inputs, times in [*shapes, (config["vocab_size"], width, 1)]:
        weight = torch.randn(outputs, inputs, device="cuda", dtype=torch.bfloat16)
        x, y = (torch.randn(tokens, n, device="cuda", dtype=torch.bfloat16) for n in (inputs, outputs))
        for product in (lambda: torch.mm(x, weight.T), lambda: torch.mm(y, weight)):  # noqa: B023  # called at once
            milliseconds += times * float(do_bench(product, warmup=20, rep=100, return_mode="median"))
        work += times * 4 * tokens * outputs * inputs
    return {
        "side": "floor", "device": torch.cuda.get_device_name(), "tokens_per_second": round(tokens / milliseconds * 1000, 1),
        "tflop_per_second": round(work / milliseconds / 1e9), "losses": [],
    }  # fmt: skip


def ratios(results: list[dict[str, Any]]) -> dict[str, float]:
    """Ours over each other side."""
    rates = {r["side"]: r["tokens_per_second"] for r in results}
    return {
        side: round(rates["ours"] / rate, 2)
        for side, rate in rates.items()
        if "ours" in rates and side != "ours" and rate
    }


def compared(results: list[dict[str, Any]]) -> dict[str, Any]:
    """How far each side's loss is from float32's, and from that of the int8 codes in float32; how often ours is no
    further than stock's."""
    by = {r["side"]: r["losses"] for r in results if r["losses"]}
    found: dict[str, Any] = {}
    for oracle in ("stock float32", "stock codes"):
        if oracle not in by:
            continue
        far = {
            side: [abs(a - b) for a, b in zip(losses, by[oracle], strict=True)]
            for side, losses in by.items()
            if side != oracle
        }
        found[oracle] = {
            side: {"mean": round(sum(gaps) / len(gaps), 5), "largest": round(max(gaps), 5), "last": round(gaps[-1], 5)}
            for side, gaps in far.items()
        }
        if {"ours", "stock notebook"} <= set(far):
            # A single step's gap is rounding, now this way and now that; its mean up to each step is what differs
            # between the two.
            ours, stock = (
                [sum(gaps[: i + 1]) for i in range(len(gaps))] for gaps in (far["ours"], far["stock notebook"])
            )
            found[oracle]["steps"] = {
                "of": len(by[oracle]),
                "no further than the notebook": sum(
                    a <= b for a, b in zip(far["ours"], far["stock notebook"], strict=True)
                ),
                "no further on average up to it": sum(a <= b for a, b in zip(ours, stock, strict=True)),
            }
    return found


def say(results: list[dict[str, Any]]) -> None:
    for side, ratio in ratios(results).items():
        print(f"ours / {side:<16} {ratio:.2f}")
    for oracle, sides in compared(results).items():
        for side, gaps in sides.items():
            print(f"{side:<16} from {oracle}: {', '.join(f'{name} {value:g}' for name, value in gaps.items())}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="560m")
    parser.add_argument("--sides", nargs="+", default=["ours", "notebook", "tuned", "floor"], choices=SIDES)
    parser.add_argument("--data", type=Path, default=QUOTES)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--stock-steps", type=int, help="steps of the notebook's side, where it is timed alone")
    parser.add_argument("--dropout", type=float, default=0.05)
    parser.add_argument("--bits", type=int, default=8)
    parser.add_argument(
        "--target-modules", default="auto", help="'auto' (query_key_value) or 'all-linear', of all sides"
    )
    parser.add_argument("--memory", default="auto")
    parser.add_argument("--memory-limit", type=float)
    parser.add_argument("--fast", default="auto")
    parser.add_argument(
        "--smallest", type=int, help="numbers that a weight must have for products to read it as it is stored"
    )
    parser.add_argument("--card", choices=list(CARDS), help="ours by the plan of this card, within its memory")
    parser.add_argument("--folder", type=Path, help="a checkpoint that is there already")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument(
        "--json", action="store_true", help="nothing but JSON: an object a side, and one that compares them"
    )
    parser.add_argument("--losses", action="store_true", help="print every step's loss too")
    arguments = parser.parse_args()
    if arguments.card and arguments.memory_limit is None:
        arguments.memory_limit = CARD_GIB[arguments.card]
    if arguments.side:
        if arguments.side == "floor":
            print(json.dumps(floor_side(arguments)))
            return
        from transformers import AutoConfig

        with acting_as(CARDS[arguments.card]) if arguments.card else contextlib.nullcontext():
            found = (our_side if arguments.side == "ours" else stock)(arguments.folder, arguments)
        config = AutoConfig.from_pretrained(arguments.folder)
        print(json.dumps({**found, **in_the_fields_unit(config, found["tokens_per_second"])}))
        return
    if arguments.stock_steps and {"float32", "codes"} & set(arguments.sides):
        parser.error("losses are compared step by step: leave --stock-steps out")
    folder = arguments.folder or Path(tempfile.mkdtemp())
    try:
        if arguments.folder is None:
            make_checkpoint(folder, arguments.size, arguments.data)
        results = []
        for side in arguments.sides:
            results.append(run_side(side, folder, arguments))
            shown = {
                k: v
                for k, v in results[-1].items()
                if k not in PER_STEP or (v and (arguments.losses or arguments.json))
            }
            print(
                json.dumps({"size": arguments.folder.name if arguments.folder else arguments.size, **shown}), flush=True
            )
    finally:
        if arguments.folder is None:
            shutil.rmtree(folder)
    if arguments.json:
        print(json.dumps({"ours over": ratios(results), "losses from": compared(results)}))
    else:
        say(results)
    if any("failed" in result for result in results):
        raise SystemExit(1)


def run_side(side: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    steps = arguments.stock_steps or arguments.steps if side != "ours" else arguments.steps
    command = [sys.executable, "-m", "bench.train.gpu", "--side", side, "--size", arguments.size]
    command += ["--folder", str(folder), "--steps", str(steps), "--data", str(arguments.data)]
    for name in ("bits", "memory", "memory_limit", "fast", "dropout", "smallest", "card", "target_modules"):
        value = getattr(arguments, name)
        command += [f"--{name.replace('_', '-')}", str(value)] if value is not None else []
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:  # the other sides are worth having
        print(f"{side} failed:\n{done.stderr[-3000:]}", file=sys.stderr)
        return {"side": side, "tokens_per_second": 0.0, "losses": [], "failed": done.returncode}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


if __name__ == "__main__":
    main()
