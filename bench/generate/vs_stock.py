"""Writing at BLOOM's sizes on one GPU: stock `generate` and ours, on the same checkpoint with the same adapter, in one
run.

    python -m bench.generate.vs_stock --size 7b1 [--json] [--sides int8 bf16 compiled ours again] [--quotes 1000]
    [--stock-quotes 192] python -m bench.generate.vs_stock --size 560m --sides float32 int8 ours --agreement

Sides, each in a process of its own: `int8` (Transformers, PEFT, bitsandbytes), `bf16` (the same without quantisation),
`compiled` (bf16 with a static cache, compiled, adapter merged: the best that stock has), `ours` (int8, adapter live;
`again`: kernels compiled already). Random weights in a real checkpoint folder; end-of-text is given a chance of about 1
in 60, as quotes have. The floor is the bytes of weights, head and cache over the card's own copy bandwidth.
`--agreement` compares greedy tokens and scores with stock's in float32."""

# ruff: noqa: B023  # each lambda is called before its loop goes on

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

NEW, MOST_NEW, EOS = 96, 100, 2
SIDES = ("float32", "int8", "bf16", "compiled", "ours", "again")


def prompts_of(folder: Path, data: Path, number: int) -> list[list[int]]:
    """How quotes begin: 1 to 14 words, as token ids."""
    from transformers import AutoTokenizer

    rows = [json.loads(line)["quote"].split() for line in data.read_text(encoding="utf-8").splitlines()]
    draw = random.Random(0)
    texts = [" ".join(rows[i % len(rows)][: draw.randint(1, 14)]) for i in range(number)]
    return [list(ids) for ids in AutoTokenizer.from_pretrained(folder)(texts)["input_ids"]]


def with_an_end(model: Any) -> Any:
    """End-of-text becomes as likely as in quotes: its score gets a part that does not depend on the text."""
    import torch

    inner = (model.get_base_model() if hasattr(model, "get_base_model") else model).transformer
    with torch.no_grad():
        direction = torch.randn(inner.embed_dim, generator=torch.Generator().manual_seed(3)).to(inner.ln_f.bias.device)
        inner.ln_f.bias.add_((direction * 0.1).to(inner.ln_f.bias.dtype))
        row = inner.word_embeddings.weight[EOS]
        row.copy_((direction * 70 / direction.square().sum()).to(row.dtype))
    return model


def time_of(function: Callable[[], Any]) -> tuple[float, Any]:
    import torch

    torch.cuda.synchronize()
    began = time.perf_counter()
    out = function()
    torch.cuda.synchronize()
    return time.perf_counter() - began, out


def with_adapter(model: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    from bench.train.stock import same_adapter

    lora = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.05, target_modules=["query_key_value"], task_type="CAUSAL_LM")
    model = get_peft_model(model, lora)
    same_adapter(model)
    return model.eval()


def stock_side(folder: Path, side: str, arguments: argparse.Namespace) -> dict[str, Any]:
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    options: dict[str, Any] = {
        "device_map": {"": "cuda:0"},
        "dtype": torch.float32 if side == "float32" else torch.bfloat16,
    }
    if side == "int8":
        options["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
    model = with_adapter(AutoModelForCausalLM.from_pretrained(folder, **options))
    if not arguments.agreement:  # which compares tokens where nothing ends
        with_an_end(model)
    static = {"cache_implementation": "static"} if side == "compiled" else {}
    if side == "compiled":
        model = model.merge_and_unload()

    def write(rows: list[list[int]], most: int, stops: bool, sample: bool) -> Any:
        longest = max(map(len, rows))
        ids = torch.full((len(rows), longest), 3)
        mask = torch.zeros_like(ids)
        for b, row in enumerate(rows):
            ids[b, longest - len(row) :], mask[b, longest - len(row) :] = torch.tensor(row), 1
        how = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 0} if sample else {"do_sample": False}
        return model.generate(
            input_ids=ids.cuda(), attention_mask=mask.cuda(), max_new_tokens=most, min_new_tokens=None if stops else most,
            pad_token_id=3, eos_token_id=EOS, **how, **static,
        )[:, longest:]  # fmt: skip

    if arguments.agreement:
        return agreement_of_stock(model, write, folder, arguments)
    result: dict[str, Any] = {"side": side}
    for batch in arguments.batch:
        rows = [[7 + b] * 16 for b in range(batch)]
        # The compiled step is prepared by a first call of the same shape; the others by a short one.
        result["first_seconds"] = round(time_of(lambda: write(rows, NEW if static else 4, False, False))[0], 1)
        seconds, out = time_of(lambda: write(rows, NEW, False, False))
        result[f"batch {batch}"] = round(out.numel() / seconds, 1)
    if not static:
        long = [[5] * 512]
        write(long, 1, True, False)
        result["first_token_ms"] = round(
            1000 * statistics.median(time_of(lambda: write(long, 1, True, False))[0] for _ in range(5)), 1
        )
        rows = prompts_of(folder, arguments.data, arguments.stock_quotes)
        seconds, _ = time_of(lambda: [write(rows[i : i + 64], MOST_NEW, True, True) for i in range(0, len(rows), 64)])
        result["quotes_per_second"] = round(len(rows) / seconds, 2)
    result["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    return result


def agreement_of_stock(model: Any, write: Any, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    import torch

    rows = prompts_of(folder, arguments.data, 200)
    with torch.inference_mode():
        scores = torch.cat([model(torch.tensor([row], device="cuda")).logits[0, -1:].float().cpu() for row in rows])
    tokens = write(rows[:64], 32, False, False).tolist()
    torch.save({"scores": scores, "tokens": tokens}, folder / f"agreement-{arguments.side}.pt")
    return {"side": arguments.side}


def our_side(folder: Path, side: str, arguments: argparse.Namespace) -> dict[str, Any]:
    import torch

    from florilegium import fast
    from florilegium.config import SamplingSettings
    from florilegium.fast.decoding.decoder import Decoder
    from florilegium.generation import ContinuousBatcher, Request, collect
    from florilegium.generation.generate import write
    from florilegium.model import LoadedModel, load_base
    from florilegium.model.families import head_weight
    from florilegium.model.families.bloom import bloom_model

    base = load_base(str(folder), bits=arguments.bits)
    model: Any = with_adapter(base.model)
    if not arguments.agreement:
        with_an_end(model)
    base.model = model
    fast.install_kernels(model, ("quantized-linear",))
    head, bloom = head_weight(model).detach(), bloom_model(model)

    def run(decoder: Any, rows: list[list[int]], settings: SamplingSettings) -> Any:
        writer = ContinuousBatcher(decoder)
        for i, row in enumerate(rows):
            writer.add(Request(row, i, settings))

        def tokens() -> Any:
            while writer.busy:
                yield from writer.step()

        return collect(tokens(), len(rows))

    if arguments.agreement:
        rows = prompts_of(folder, arguments.data, 200)
        decoder = Decoder(bloom, head, slots=1, capacity=128, eos=-5, max_rows=64)
        scores = []
        for row in rows:
            run(decoder, [row], SamplingSettings(max_new_tokens=1, temperature=0.0))
            scores.append(decoder.scores[: len(head)].cpu()[None])
        greedy = SamplingSettings(max_new_tokens=32, temperature=0.0)
        alone = [done.token_ids for row in rows[:64] for done in run(decoder, [row], greedy)]
        together = Decoder(bloom, head, slots=64, capacity=128, eos=-5)
        same = [done.token_ids for done in run(together, rows[:64], greedy)] == alone
        torch.save({"scores": torch.cat(scores), "tokens": alone}, folder / "agreement-ours.pt")
        return {"side": "ours", "64_texts_the_same_alone_and_together": same}

    torch.cuda.reset_peak_memory_stats()
    result: dict[str, Any] = {"side": side, "device": torch.cuda.get_device_name()}
    weights_bytes, greedy = torch.cuda.memory_allocated(), SamplingSettings(max_new_tokens=NEW, temperature=0.0)
    for batch in arguments.batch:
        rows = [[7 + b] * 16 for b in range(batch)]
        first, decoder = time_of(lambda: Decoder(bloom, head, slots=batch, capacity=128, eos=-5, max_rows=16 * batch))
        first += time_of(lambda: run(decoder, rows, SamplingSettings(max_new_tokens=2, temperature=0.0)))[0]
        run(decoder, rows, SamplingSettings(max_new_tokens=8, temperature=0.0))
        result[f"warm_up_seconds_{batch}"] = round(first, 1)
        seconds, _ = time_of(lambda: run(decoder, rows, greedy))
        result[f"batch {batch}"] = round(batch * NEW / seconds, 1)
        read = weights_bytes + decoder.cache.numel() * 2 * (16 + NEW // 2) / 128
        result[f"floor {batch}"] = round(batch * bandwidth() / read, 1)
    decoder = Decoder(bloom, head, slots=1, capacity=640, eos=-5, max_rows=512)
    one, long = SamplingSettings(max_new_tokens=1, temperature=0.0), [[5] * 512]
    run(decoder, long, one)
    result["first_token_ms"] = round(
        1000 * statistics.median(time_of(lambda: run(decoder, long, one))[0] for _ in range(5)), 1
    )
    rows = prompts_of(folder, arguments.data, arguments.quotes)
    settings = SamplingSettings(max_new_tokens=MOST_NEW, temperature=0.7, top_p=0.9)
    asked = [Request(row, i, settings) for i, row in enumerate(rows)]
    seconds, done = time_of(lambda: collect(write(LoadedModel(base, model, ("fast-decode",)), asked), len(asked)))
    result["quotes_per_second"] = round(len(rows) / seconds, 2)
    result["quotes_tokens_per_second"] = round(sum(len(d.token_ids) + d.finished for d in done) / seconds, 1)
    result["finished_share"] = round(sum(d.finished for d in done) / len(done), 3)
    del decoder
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    decoder = Decoder(bloom, head, slots=64, capacity=512, eos=-5)
    run(decoder, [[9] * 480] * 64, SamplingSettings(max_new_tokens=32, temperature=0.7, top_p=0.9))
    above = torch.cuda.max_memory_allocated() - weights_bytes - decoder.cache.numel() * 2
    result["gib_above_weights_and_cache_64x512"] = round(above / 2**30, 2)
    return result


def bandwidth() -> float:
    """Bytes a second read and written by a large copy on the device."""
    import torch

    a = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    b = torch.empty_like(a)
    b.copy_(a)
    seconds, _ = time_of(lambda: [b.copy_(a) for _ in range(20)])
    return 40 * a.numel() / seconds


def agreement(folder: Path) -> None:
    """Greedy tokens and first scores of each side against stock in float32."""
    import torch

    found = {path.stem.split("-")[1]: torch.load(path) for path in folder.glob("agreement-*.pt")}
    exact = found.pop("float32")
    for side, got in found.items():
        error = ((got["scores"] - exact["scores"]).norm() / exact["scores"].norm()).item()
        first = (got["scores"].argmax(-1) == exact["scores"].argmax(-1)).float().mean().item()
        prefix = [sum(1 for _ in _common(a, b)) for a, b in zip(got["tokens"], exact["tokens"], strict=True)]
        whole = sum(n == len(row) for n, row in zip(prefix, exact["tokens"], strict=True))
        line = {
            "side": side,
            "score_error": round(error, 5),
            "first_token_agrees": first,
            "texts_of_32_tokens_that_agree": f"{whole} of 64",
        }
        print(json.dumps(line | {"mean_tokens_before_they_part": round(statistics.mean(prefix), 1)}), flush=True)


def _common(a: list[int], b: list[int]) -> Any:
    for x, y in zip(a, b, strict=False):
        if x != y:
            return
        yield x


def table(results: dict[str, dict[str, Any]], batches: list[int]) -> None:
    for name in [*(f"batch {b}" for b in batches), "quotes_per_second", "first_token_ms"]:
        row = {side: found[name] for side, found in results.items() if name in found}
        ours = row.get("ours")
        ratio = f"  ours / int8: {ours / row['int8']:.1f}" if ours and "int8" in row else ""
        print(f"{name:<20} {row}{ratio}", flush=True)


def main() -> None:
    from bench.common.checkpoint import QUOTES

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="560m")
    parser.add_argument("--bits", type=int, default=8)
    parser.add_argument("--sides", nargs="+", default=["int8", "bf16", "compiled", "ours", "again"], choices=SIDES)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--quotes", type=int, default=1000)
    parser.add_argument("--stock-quotes", type=int, default=192)
    parser.add_argument("--data", type=Path, default=QUOTES)
    parser.add_argument("--agreement", action="store_true")
    parser.add_argument("--json", action="store_true", help="nothing but one JSON object a side")
    parser.add_argument("--folder", type=Path, help="a checkpoint that is there already")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        side = our_side if arguments.side in ("ours", "again") else stock_side
        print(json.dumps(side(arguments.folder, arguments.side, arguments)))
        return
    folder = arguments.folder or Path(tempfile.mkdtemp())
    results = {}
    try:
        if arguments.folder is None:
            from bench.common.checkpoint import make_checkpoint

            make_checkpoint(folder, arguments.size, arguments.data)
        for side in arguments.sides:
            results[side] = run_side(side, folder)
            print(json.dumps({"size": arguments.size, **results[side]}), flush=True)
        if arguments.agreement:
            agreement(folder)
        elif not arguments.json:
            table(results, arguments.batch)
    finally:
        if arguments.folder is None:
            shutil.rmtree(folder)


def run_side(side: str, folder: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "bench.generate.vs_stock", *sys.argv[1:], "--side", side, "--folder", str(folder)],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


if __name__ == "__main__":
    main()
