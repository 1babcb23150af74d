"""Ten thousand adapters of one base: what they take on disk and in memory, and how soon one that is not in memory is.

    python -m bench.scale.adapters [--adapters 10000] [--size 7b1] [--rank 16] [--memory-gib 24]

Writes a few real adapter files of that shape, reads them again (from the page cache: a disk adds its own time), and
draws the rest from these figures. The base is held once, whatever the number of adapters.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from bench.common.gpu_model import SIZES

FILES = 5


def write_adapter(path: Path, size: str, rank: int) -> int:
    """An adapter on query_key_value of a BLOOM of that size, in float32 as a run saves it. Returns its bytes."""
    import torch
    from safetensors.torch import save_file

    width, _, layers = SIZES[size]
    tensors = {}
    for layer in range(layers):
        name = f"base_model.model.transformer.h.{layer}.self_attention.query_key_value"
        tensors[f"{name}.lora_A.weight"] = torch.randn(rank, width)
        tensors[f"{name}.lora_B.weight"] = torch.randn(3 * width, rank)
    save_file(tensors, path)
    return path.stat().st_size


def read_seconds(path: Path) -> float:
    """Until every number of the file is in memory of its own."""
    from safetensors.torch import load_file

    began = time.perf_counter()
    tensors = load_file(path)
    sum(float(tensor.sum()) for tensor in tensors.values())
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", type=int, default=10_000)
    parser.add_argument("--size", choices=SIZES, default="7b1")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--memory-gib", type=float, default=24, help="what is left for adapters beside the base")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.safetensors" for number in range(FILES)]
        sizes = [write_adapter(path, chosen.size, chosen.rank) for path in paths]
        seconds = statistics.median(read_seconds(path) for path in paths)
    each = statistics.fmean(sizes)
    line = {
        "adapter_mb": round(each / 1e6, 1),
        "all_gb": round(chosen.adapters * each / 1e9),
        "held_at_once": int(chosen.memory_gib * 2**30 / each),
        "read_ms": round(1e3 * seconds, 1),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
