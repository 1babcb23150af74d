"""Blocks' weights in main memory, checked on a card: the rates in 8 and 4 bits with all and half of the blocks there,
and whole runs, whose adapter is to be that of a run with all on the card, bit for bit.

    python -m bench.train.offload [--size 7b1] [--bits 8 4] [--steps 12] [--minutes 5]

Prints what `bench.train.steps` does, then a line of JSON for each bit width: whether the adapters of `--memory lean` and
`--memory offload`, with the same --micro-batch-tokens and --gpu-memory-limit for the second, are equal, and if not by how
much they differ. After --minutes nothing more is begun. A folder whose weights take no disk is made for it."""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from bench.common.commands import BEGAN, Command, run_until, say
from bench.common.stored_model import SHAPES, VOCABULARIES, make_stored
from bench.scale.giant import FLORILEGIUM, figures, place_for_models, rows_file

MICRO_BATCH = 768  # tokens, the same in both runs
LIMITS = {8: 6.0, 4: 4.5}  # GiB in which about half of bloom-7b1's blocks have no room


def rates(size: str, bits: int, end: float) -> None:
    steps = ["bench.train.steps", "--size", size, "--bits", str(bits), "--repeats", "8"]
    run_until(end, *steps, "--tokens", "2048", "8192", "--plans", "lean", "offload")
    # apart: blocks that came back to the card stay there
    run_until(end, *steps, "--tokens", "2048", "--plans", "offload:15")


def same_adapter(place: Path, size: str, bits: int, steps: int, end: float) -> None:
    """Trains twice, and says whether the same was learned."""
    folder = place / f"bits{bits}"
    make_stored(folder, SHAPES[size], VOCABULARIES[size], bits, rows_file(), holes=torch.cuda.is_available())
    train = ["train", str(rows_file()), "--model", str(folder), "--max-steps", str(steps), "--verdict-texts", "0"]
    train += ["--eval-every", "100000", "--log-every", "1", "--micro-batch-tokens", str(MICRO_BATCH)]
    found = []
    for memory, limit in (("lean", None), ("offload", LIMITS[bits])):
        run = place / f"{memory}{bits}"
        more = [] if limit is None else ["--gpu-memory-limit", f"{limit:g}"]
        command = run_until(end, FLORILEGIUM, *train, "--memory", memory, "--output", str(run), *more)
        commands: list[Command] = [] if command is None else [command]
        say(json.dumps(figures(run, {"size": size, "bits": bits, "memory": memory}, commands)))
        found.append(run / "adapter" / "adapter_model.safetensors")
    if not all(path.is_file() for path in found):
        say(f"{bits} bits: not both runs came to their adapter")
        return
    lean, offload = map(load_file, found)
    apart = max(float((lean[key].float() - offload[key].float()).abs().max()) for key in lean)
    moved = max(float(tensor.abs().max()) for key, tensor in lean.items() if "lora_B" in key)
    say(json.dumps({"bits": bits, "adapters_equal": apart == 0, "largest_difference": apart, "largest_b": moved}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("7b1",), default="7b1")
    parser.add_argument("--bits", type=int, nargs="+", choices=(4, 8), default=[4, 8])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--minutes", type=float, default=5, help="in all")
    chosen = parser.parse_args()
    end, place = BEGAN + 60 * chosen.minutes, place_for_models()
    try:
        for bits in chosen.bits:
            rates(chosen.size, bits, end)
            same_adapter(place, chosen.size, bits, chosen.steps, end)
    finally:
        shutil.rmtree(place)
    say(f"{time.monotonic() - BEGAN:.0f} s in all")


if __name__ == "__main__":
    main()
