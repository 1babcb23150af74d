"""Training other families on one GPU beside a tuned stock loop, on the same rows of english_quotes, LoRA r=16 on all linears.

    python -m bench.train.other_families --shapes llama-3-8b --bits 4 8 --rows 16 154 [--sides stock plain ours] [--steps 24]
    python -m bench.train.other_families --shapes qwen3-0.6b qwen3-1.7b smollm2-1.7b --bits 4

Random weights of that shape in a real checkpoint folder. `stock`: Transformers, PEFT, bitsandbytes and Liger's kernels in
bfloat16, rows of like length together in one batch, with checkpointed blocks and without, the faster of the two. `plain`: ours
without the fused layers. `ours`: as `florilegium train` does it. --rows 154 is a step of about 8,192 tokens. Each side runs in
a process of its own, and prints tokens/s that are not padding, milliseconds a step, the peak, TFLOP/s and their share of the
card's; at last ours over stock, and with --dropout 0 how far the losses of ours and plain differ."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.common.checkpoint import QUOTES, train_tokenizer
from bench.common.field_unit import in_the_fields_unit

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

SHARED_MEMORY = Path("/dev/shm")
SIDES = ("stock", "plain", "ours")
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "tiny": ("llama", {"vocab_size": 12_000, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2,
                       "num_attention_heads": 4, "num_key_value_heads": 2}),
    "llama-3-8b": ("llama", {"vocab_size": 128_256, "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32,
                             "num_attention_heads": 32, "num_key_value_heads": 8}),
    "qwen3-0.6b": ("qwen3", {"vocab_size": 151_936, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
                             "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": True}),
    "qwen3-1.7b": ("qwen3", {"vocab_size": 151_936, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28,
                             "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": True}),
    "smollm2-1.7b": ("llama", {"vocab_size": 49_152, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24,
                               "num_attention_heads": 32, "num_key_value_heads": 32, "tie_word_embeddings": True}),
}  # fmt: skip


def make_folder(folder: Path, shape: str, data: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    model_type, sizes = SHAPES[shape]
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        config = AutoConfig.for_model(model_type, **sizes, eos_token_id=2, pad_token_id=3, bos_token_id=1)
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    train_tokenizer(folder, data)


def our_side(folder: Path, flags: argparse.Namespace) -> dict[str, Any]:
    from bench.train.gpu import our_side

    names = "quantized-linear,chunked-loss" if flags.side == "plain" else "auto"
    options = argparse.Namespace(
        data=flags.data, steps=flags.steps, bits=flags.bits[0], memory="auto", memory_limit=None, fast=names,
        dropout=flags.dropout, target_modules="all-linear", smallest=None, batch_size=flags.rows[0],
    )  # fmt: skip
    return {**our_side(folder, options), "side": flags.side}


def stock_side(folder: Path, flags: argparse.Namespace) -> dict[str, Any]:
    import torch

    found = []
    for checkpointed in (False, True):
        with contextlib.suppress(torch.OutOfMemoryError):
            found.append(_stock(folder, flags, checkpointed))
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return max(found, key=lambda one: float(one["tokens_per_second"]))


def _stock(folder: Path, flags: argparse.Namespace, checkpointed: bool) -> dict[str, Any]:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    from bench.train.stock import RATE, padded, same_adapter
    from florilegium.data import read_rows
    from florilegium.tokens import encode

    liger = importlib.util.find_spec("liger_kernel") is not None
    if liger:
        from liger_kernel.transformers.monkey_patch import _apply_liger_kernel

        _apply_liger_kernel(SHAPES[flags.shapes[0]][0])
    quantised = (
        BitsAndBytesConfig(load_in_8bit=True)
        if flags.bits[0] == 8
        else BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    )
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, device_map={"": 0}, dtype=torch.bfloat16, quantization_config=quantised
    )
    if checkpointed:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    lora = LoraConfig(
        r=16, lora_alpha=32, lora_dropout=flags.dropout, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    model = get_peft_model(model, lora).train()
    same_adapter(model)
    rows = read_rows(flags.data)
    examples = encode(AutoTokenizer.from_pretrained(folder), rows.template, rows.quotes).examples
    # rows of like length together, steps in an order of chance: as group_by_length has it
    examples = sorted(examples, key=lambda e: len(e.token_ids))
    groups = [examples[i : i + flags.rows[0]] for i in range(0, len(examples) - flags.rows[0] + 1, flags.rows[0])]
    order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(0)).tolist()
    steps = [groups[i] for i in (order * (1 + flags.steps // len(order)))[: flags.steps]]
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0, fused=True)
    began = time.perf_counter()
    with torch.autocast("cuda", torch.bfloat16):
        for number, group in enumerate(steps):
            if number == 3:
                torch.cuda.synchronize()
                began = time.perf_counter()
            ids, mask, labels = padded(group)
            model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    tokens = sum(len(e.token_ids) for group in steps[3:] for e in group)
    return {
        "side": "stock",
        "liger": liger,
        "checkpointed": checkpointed,
        "tokens_per_second": round(tokens / seconds, 1),
        "ms_per_step": round(1000 * seconds / (len(steps) - 3), 1),
        "tokens_per_step": round(tokens / (len(steps) - 3), 1),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
        "losses": [],
    }


def run_side(side: str, folder: Path, shape: str, bits: int, rows: int, flags: argparse.Namespace) -> dict[str, Any]:
    command = [
        sys.executable,
        "-m",
        "bench.train.other_families",
        "--side",
        side,
        "--folder",
        str(folder),
        "--shapes",
        shape,
    ]
    command += ["--bits", str(bits), "--rows", str(rows), "--steps", str(flags.steps), "--dropout", str(flags.dropout)]
    began = time.perf_counter()
    done = subprocess.run([*command, "--data", str(flags.data)], capture_output=True, text=True)
    if done.returncode:  # the other sides are worth having
        print(f"{side} failed:\n{done.stderr[-2500:]}", file=sys.stderr, flush=True)
        return {"side": side, "tokens_per_second": 0.0, "losses": []}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**found, "whole_seconds": round(time.perf_counter() - began, 1)}


def compare(results: list[dict[str, Any]]) -> str:
    """Ours over the others, in one line."""
    by = {result["side"]: result for result in results}
    parts = [
        f"ours over {side} {by['ours']['tokens_per_second'] / by[side]['tokens_per_second']:.2f} at "
        f"{by['ours']['peak_gib'] / by[side]['peak_gib']:.2f} of its memory"
        for side in ("stock", "plain")
        if "ours" in by and side in by and by["ours"]["tokens_per_second"] and by[side]["tokens_per_second"]
    ]
    if {"ours", "plain"} <= set(by) and by["ours"]["losses"] and by["plain"]["losses"]:
        gaps = [abs(a - b) for a, b in zip(by["ours"]["losses"], by["plain"]["losses"], strict=True)]
        parts.append(f"losses of ours and plain differ by {max(gaps):.5f} at most")
    return "; ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=["llama-3-8b"])
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--bits", nargs="+", type=int, default=[4])
    parser.add_argument("--rows", nargs="+", type=int, default=[16], help="of a step")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--dropout", type=float, default=0.05)
    parser.add_argument("--data", type=Path, default=QUOTES)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.side:
        from transformers import AutoConfig

        found = (stock_side if flags.side == "stock" else our_side)(flags.folder, flags)
        print(
            json.dumps(
                {**found, **in_the_fields_unit(AutoConfig.from_pretrained(flags.folder), found["tokens_per_second"])}
            )
        )
        return
    for shape in flags.shapes:
        folder = Path(tempfile.mkdtemp(dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None))
        try:
            make_folder(folder, shape, flags.data)
            for bits, rows in [(bits, rows) for bits in flags.bits for rows in flags.rows]:
                results = []
                for side in flags.sides:
                    results.append(run_side(side, folder, shape, bits, rows, flags))
                    shown = {k: v for k, v in results[-1].items() if k not in ("losses", "gradient_norms")}
                    print(json.dumps({"shape": shape, "bits": bits, "rows": rows, **shown}), flush=True)
                print(f"{shape} {bits} bits, {rows} rows: {compare(results)}", flush=True)
        finally:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
