"""A BLOOM onto the GPU, from a checkpoint in the page cache: Transformers' `from_pretrained` and ours, seconds and peak
memory; from bfloat16, quantised as it is read, and (`stored`) from that checkpoint as bitsandbytes stores it.

    python -m bench.train.load [--size 7b1] [--bits 8] [--times 3] [--sides stock ours "stock stored" "ours stored"]

Each loads in a process of its own, in which the libraries are imported already; the fastest of `--times` counts.
`offload` and `offload stored` are ours with the blocks' weights in host memory. --folder keeps the two checkpoints for
another call, the stored one in its subfolder int8 or nf4.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.common.checkpoint import QUOTES, make_checkpoint
from bench.common.gpu_model import SIZES

SIDES = ("stock", "ours", "stock stored", "ours stored")


def measured(side: str, folder: Path, bits: int, times: int) -> dict[str, Any]:
    import bitsandbytes  # noqa: F401  # what either side imports as it loads must not be timed
    import peft  # noqa: F401  # likewise
    import torch
    from transformers import AutoModelForCausalLM

    from florilegium.model import load_base
    from florilegium.model.transformers_loader import quantization_config

    device = torch.device("cuda")
    torch.zeros(1, device=device)
    offload = side.startswith("offload")
    seconds = []
    for _ in range(times):
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        if side.startswith("stock"):
            how = {} if side.endswith("stored") else {"quantization_config": quantization_config(bits, torch.bfloat16)}
            model: Any = AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float16, device_map={"": "cuda:0"}, **how
            )
        else:
            model = load_base(str(folder), bits=bits, device=device, offload=offload)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
        peak, held = torch.cuda.max_memory_allocated(), torch.cuda.memory_allocated()
        del model
    return {
        "side": side, "seconds": round(min(seconds), 2), "peak_gib": round(peak / 2**30, 2), "held_gib": round(held / 2**30, 2),
    }  # fmt: skip


def store(folder: Path, place: Path, bits: int) -> None:
    """The checkpoint of `folder` as Transformers saves it quantised."""
    import torch

    from florilegium.model import load_base

    base = load_base(str(folder), bits=bits, device=torch.device("cuda"))
    base.model.save_pretrained(place)
    base.tokenizer.save_pretrained(place)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="7b1")
    parser.add_argument("--bits", type=int, choices=(8, 4), default=8)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--sides", nargs="+", default=SIDES)
    parser.add_argument("--folder", type=Path, help="where the checkpoints are kept; default: nowhere")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch)
        stored = folder / {8: "int8", 4: "nf4"}[arguments.bits]
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:  # each in a process of its own
            if not (folder / "config.json").is_file():
                pool.apply(make_checkpoint, (folder, arguments.size, QUOTES))
            if not stored.is_dir():
                pool.apply(store, (folder, stored, arguments.bits))
            for side in arguments.sides:
                place = stored if side.endswith("stored") else folder
                found = pool.apply(measured, (side, place, arguments.bits, arguments.times))
                print(json.dumps({"size": arguments.size, "bits": arguments.bits} | found), flush=True)


if __name__ == "__main__":
    main()
