"""Writing by other families on one GPU: the recorded step beside Transformers' own growing cache, both through
`florilegium.generation`, with a LoRA adapter on every linear.

    python -m bench.generate.other_families --shapes llama-3-8b qwen3-1.7b --bits 4 --texts 1 16 --tokens 64

Random weights; greedy, so both write the same texts but for ties. Prints tokens/s of each, the largest share of equal texts,
and how long the first text took, recording and all."""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path

import torch

from bench.common.checkpoint import QUOTES
from bench.train.other_families import SHAPES, SHARED_MEMORY, make_folder
from florilegium.config import SamplingSettings, make_config
from florilegium.generation.decode import StockDecoder, write_batch
from florilegium.generation.recorded_decode import RecordedDecoder, unsupported_reason
from florilegium.generation.request import Request
from florilegium.model import LoadedModel, attach_adapter, fast_paths, load_base


def written(model: LoadedModel, side: str, texts: int, tokens: int) -> tuple[list[list[int | None]], float]:
    settings = SamplingSettings(max_new_tokens=tokens, temperature=0.0)
    requests = [Request([(11 * n + 5 * i) % 4000 + 4 for i in range(8)], n, settings) for n in range(texts)]
    decoder = StockDecoder(model) if side == "stock" else RecordedDecoder(model)
    found: list[list[int | None]] = [[] for _ in requests]
    began = time.perf_counter()
    with model.evaluating():
        for event in write_batch(decoder, requests, -1):
            found[event.request].append(event.token_id)
    torch.cuda.synchronize()
    return found, time.perf_counter() - began


def measure(shape: str, bits: int, flags: argparse.Namespace) -> None:
    folder = Path(tempfile.mkdtemp(dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None))
    try:
        make_folder(folder, shape, QUOTES)
        base = load_base(str(folder), bits=bits, device=torch.device("cuda"), compute="bfloat16")
    finally:
        shutil.rmtree(folder)
    adapter = attach_adapter(base, make_config({"bits": bits, "target_modules": "all-linear"}))
    model = LoadedModel(base, adapter, ("quantized-linear", "chunked-loss"))
    fast_paths.install_kernels(model.model, model.kernels)
    reason = unsupported_reason(model, flags.tokens + 8)
    for texts in flags.texts:
        rates, lists, first = {}, {}, {}
        for side in ("stock", *(() if reason else ("recorded",))):
            _, first[side] = written(model, side, texts, flags.tokens)
            lists[side], seconds = written(model, side, texts, flags.tokens)
            rates[side] = round(texts * flags.tokens / seconds, 1)
        equal = sum(a == b for a, b in zip(lists["stock"], lists.get("recorded", []), strict=False))
        told = {"first_seconds": {side: round(value, 2) for side, value in first.items()}, "equal_texts": equal}
        print(json.dumps({"shape": shape, "bits": bits, "texts": texts, **rates, **told, "reason": reason}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=["llama-3-8b"])
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--texts", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--tokens", type=int, default=64)
    flags = parser.parse_args()
    for shape in flags.shapes:
        measure(shape, flags.bits, flags)
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
