"""Training speed on one GPU at BLOOM's sizes: random weights, int8, LoRA r=16, the notebook's 16 rows an optimiser step.

    python bench/train_gpu.py --size 7b1 [--steps 20] [--bits 8] [--memory fast|lean] [--data english_quotes.jsonl] [--profile]

Prints tokens/s that are not padding, milliseconds a step, peak GiB, and the seconds that loading took. The weights are random, made in
the checkpoint folder first (speed and memory do not depend on what they say).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

SIZES = {"560m": (1024, 16, 24), "1b1": (1536, 16, 24), "1b7": (2048, 16, 24), "3b": (2560, 32, 30), "7b1": (4096, 32, 30)}


def make_checkpoint(folder: Path, size: str, data: Path) -> None:
    """A BLOOM of that size with random weights in bfloat16, and a tokenizer trained on the rows."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import BloomConfig, BloomForCausalLM, PreTrainedTokenizerFast

    width, heads, layers = SIZES[size]
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        BloomForCausalLM(BloomConfig(vocab_size=250_880, hidden_size=width, n_head=heads, n_layer=layers)).save_pretrained(folder)
    torch.set_default_dtype(torch.float32)
    torch.cuda.empty_cache()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    trainer = trainers.BpeTrainer(vocab_size=12_000, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train([str(data)], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    fast.save_pretrained(folder)


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    import torch

    from florilegium.config import make_config
    from florilegium.model import attach_adapter
    from florilegium.pipeline import _accelerator
    from florilegium.prepare import prepare
    from florilegium.recorder import Silent
    from florilegium.setting_up import make_trainer, set_up
    from florilegium.training import make_schedule_numbers
    from florilegium.training.loop import start_step, step_examples, training_step

    config = make_config(
        {
            "data": str(arguments.data),
            "model": str(folder),
            "bits": arguments.bits,
            "memory": arguments.memory,
            "memory_limit": arguments.memory_limit,
            "fast": arguments.fast,
        }
    )
    began = time.perf_counter()
    prepared = prepare(config, Silent())
    loading = time.perf_counter() - began
    load_peak = torch.cuda.max_memory_allocated()
    model = attach_adapter(prepared.base, prepared.config)
    forecast = set_up(prepared, model)
    schedule = make_schedule_numbers(len(prepared.training.examples), config)
    trainer = make_trainer(prepared, model, _accelerator(prepared.config, folder), schedule, forecast)
    examples = prepared.training.examples
    began = time.perf_counter()
    torch.cuda.reset_peak_memory_stats()  # recording is counted: what is replayed takes that memory
    for step in range(arguments.steps):  # the same steps as will be timed, so that each length is compiled or recorded
        training_step(trainer, step_examples(examples, config, schedule, step), Silent())
    warm_up = time.perf_counter() - began
    torch.cuda.synchronize()
    began = time.perf_counter()
    started = [start_step(trainer, step_examples(examples, config, schedule, step), Silent()) for step in range(arguments.steps)]
    tokens = sum(step.figures()["tokens"] for step in started)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    if arguments.profile:
        profile(lambda: training_step(trainer, step_examples(examples, config, schedule, 0), Silent()))
    return {
        "size": arguments.size,
        "bits": arguments.bits,
        "memory": arguments.memory,
        "tokens_per_second": round(tokens / seconds, 1),
        "ms_per_step": round(1000 * seconds / arguments.steps, 1),
        "tokens_per_step": round(tokens / arguments.steps, 1),
        "forecast_gib": round(forecast.peak / 2**30, 2) if forecast else None,
        "plan": forecast and [forecast.full, forecast.middle, forecast.copies, forecast.tokens],
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
        "load_peak_gib": round(load_peak / 2**30, 2),
        "prepare_seconds": round(loading, 1),
        "warm_up_seconds": round(warm_up, 1),
        "fast": prepared.fast,
        "device": torch.cuda.get_device_name(),
    }


def profile(step: Any) -> None:
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    with record(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as recorded:
        step()
    print(recorded.key_averages().table(sort_by="cuda_time_total", row_limit=25, max_name_column_width=60))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).resolve().parent.parent
    data = Path(os.environ.get("FLORILEGIUM_DATA", here.parent / "shared" / "data")) / "english_quotes.jsonl"
    parser.add_argument("--size", choices=SIZES, default="560m")
    parser.add_argument("--data", type=Path, default=data)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--bits", type=int, default=8)
    parser.add_argument("--memory", default="auto")
    parser.add_argument("--memory-limit", type=float)
    parser.add_argument("--fast", default="auto")
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        make_checkpoint(folder, arguments.size, arguments.data)
        print(json.dumps(measure(folder, arguments)), flush=True)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
