"""A BLOOM in int8 onto the GPU, from a checkpoint in bfloat16 in the page cache: Transformers' `from_pretrained` in
float16, as the notebook has it, and ours, seconds and peak memory.

    python -m bench.train.load [--size 7b1] [--times 3]

Each loads in a process of its own, in which the libraries are imported already; the fastest of `--times` counts.
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


def measured(side: str, folder: Path, times: int) -> dict[str, Any]:
    import bitsandbytes  # noqa: F401  # what either side imports as it loads must not be timed
    import peft  # noqa: F401  # likewise
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from florilegium.model import load_base

    device = torch.device("cuda")
    options: dict[str, Any] = {"device_map": {"": "cuda:0"}, "dtype": torch.float16}
    torch.zeros(1, device=device)
    seconds = []
    for _ in range(times):
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        if side == "ours":
            model: Any = load_base(str(folder), device=device).model
        else:
            model = AutoModelForCausalLM.from_pretrained(
                folder, quantization_config=BitsAndBytesConfig(load_in_8bit=True), **options
            )
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
        peak, held = torch.cuda.max_memory_allocated(), torch.cuda.memory_allocated()
        del model
    return {
        "side": side, "seconds": round(min(seconds), 1), "peak_gib": round(peak / 2**30, 2), "held_gib": round(held / 2**30, 2),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="7b1")
    parser.add_argument("--times", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_checkpoint(folder, arguments.size, QUOTES)
        for side in ("stock", "ours"):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                print(
                    json.dumps({"size": arguments.size} | pool.apply(measured, (side, folder, arguments.times))),
                    flush=True,
                )


if __name__ == "__main__":
    main()
