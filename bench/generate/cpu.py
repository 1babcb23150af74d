"""Writing on the CPU: stock `generate` and ours, the same tokens from the same model, in one process, in turn.

    python -m bench.generate.cpu [--model seedling] [--bits 32] [--batch 1 16] [--tokens 64]

Greedy and sampled (temperature 0.7, top-p 0.9). Prints tokens/s of both, the median of rounds that alternate, and the
ratio. `--bits 8`: both in bitsandbytes' int8."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

PROMPTS = [
    "Be kind",
    "The sea is",
    "A friend who",
    "Time",
    "When you have nothing left to say, say",
    "Hope",
    "No one",
    "Every door that",
]


def main() -> None:
    import torch

    from florilegium import fast
    from florilegium.config import SamplingSettings
    from florilegium.generation import Request, collect, generate, write
    from florilegium.model import LoadedModel, load_base
    from florilegium.tokens import text_ids

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="seedling")
    parser.add_argument("--bits", type=int, default=32)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    base = load_base(arguments.model, bits=arguments.bits, device=torch.device("cpu"), compute="float32")
    model: Any = base.model
    tokens = arguments.tokens
    model.generation_config.eos_token_id = None
    generate.end_of_text = lambda tokenizer: -1  # type: ignore[attr-defined]  # no text stops before the other side's does

    def stock(rows: list[list[int]], sample: bool) -> Any:
        longest = max(map(len, rows))
        ids = torch.full((len(rows), longest), 3)
        mask = torch.zeros_like(ids)
        for b, row in enumerate(rows):
            ids[b, longest - len(row) :], mask[b, longest - len(row) :] = torch.tensor(row), 1
        how = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 0} if sample else {"do_sample": False}
        out = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=tokens, pad_token_id=3, **how)
        return out[:, longest:].tolist()

    def ours(rows: list[list[int]], sample: bool) -> Any:
        settings = SamplingSettings(max_new_tokens=tokens, temperature=0.7 if sample else 0.0, top_p=0.9)
        done = collect(
            write(LoadedModel(base, model), [Request(row, i, settings) for i, row in enumerate(rows)]), len(rows)
        )
        return [d.token_ids for d in done]

    for batch in arguments.batch:
        rows = [list(ids) for ids in text_ids(base.tokenizer, [PROMPTS[i % len(PROMPTS)] for i in range(batch)])]
        for sample in (False, True):
            seconds: dict[str, list[float]] = {"stock": [], "ours": []}
            written: dict[str, Any] = {}
            for round_number in range(arguments.rounds + 1):
                for name, function in (("stock", stock), ("ours", ours)):
                    fast.install_kernels(
                        model, ("quantized-linear",) if name == "ours" and arguments.bits in (8, 4) else ()
                    )
                    began = time.perf_counter()
                    written[name] = function(rows, sample)
                    seconds[name] += [(time.perf_counter() - began) / (batch * tokens)] if round_number else []
            rate = {name: 1 / statistics.median(times) for name, times in seconds.items()}
            line = {"model": arguments.model, "bits": arguments.bits, "batch": batch, "sampled": sample}
            line |= {f"{name}_tokens_per_second": round(value, 1) for name, value in rate.items()}
            same = None if sample else sum(a == b for a, b in zip(written["stock"], written["ours"], strict=True))
            print(json.dumps(line | {"ratio": round(rate["ours"] / rate["stock"], 2), "same_texts": same}), flush=True)


if __name__ == "__main__":
    main()
