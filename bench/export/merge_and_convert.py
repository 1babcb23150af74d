"""Seconds and memory of an export: ours, tensor by tensor, beside PEFT's `merge_and_unload` and `save_pretrained` (and
llama.cpp's converter after it, where one is named).

    python -m bench.export.merge_and_convert [--size 7b1] [--forms merged gguf:f16 gguf:q8_0] [--converter convert_hf_to_gguf.py]

The model is a BLOOM of that size with random weights in bfloat16, the adapter rank 16 on query_key_value. Each side runs
in a process of its own, in which the libraries are imported already. Memory is what the process held beside the files
that it read: the most of RssAnon, sampled every 10 ms. `--check` loads and compares what was written, too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.common.checkpoint import train_tokenizer
from bench.common.gpu_model import SIZES, VOCABULARY


@contextlib.contextmanager
def measured(figures: dict[str, float]) -> Iterator[None]:
    """Fills in `seconds` and `anonymous_gib`."""
    done, most = threading.Event(), [0]

    def sample() -> None:
        while not done.wait(0.01):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("RssAnon:"):
                    most[0] = max(most[0], int(line.split()[1]))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    before = next(
        int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if "RssAnon" in line
    )
    began = time.perf_counter()
    try:
        yield
    finally:
        figures["seconds"] = round(time.perf_counter() - began, 2)
        done.set()
        thread.join()
        figures["anonymous_gib"] = round(max(0, most[0] - before) / 2**20, 3)


def make_model(folder: Path, size: str) -> None:
    """Base and adapter, from the GPU where there is one: 14 GB of random numbers take a CPU minutes."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import BloomConfig, BloomForCausalLM

    from florilegium.seedling import SAYINGS

    width, heads, layers = SIZES[size]
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = BloomForCausalLM(BloomConfig(vocab_size=VOCABULARY, hidden_size=width, n_head=heads, n_layer=layers))
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder / "base", max_shard_size="5GB")
    train_tokenizer(folder / "base", SAYINGS)
    lora = LoraConfig(
        r=16, lora_alpha=32, target_modules=["query_key_value"], task_type="CAUSAL_LM", init_lora_weights=False
    )
    get_peft_model(model, lora).save_pretrained(folder / "adapter", save_embedding_layers=False)
    config = folder / "adapter" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": str(folder / "base")}))


def ours(folder: Path, form: str, check: bool, answer: Any) -> None:
    import peft  # noqa: F401  # what either side imports must not be timed
    import transformers  # noqa: F401  # likewise

    from florilegium.runs.export import export

    to, _, kind = form.partition(":")
    figures: dict[str, float] = {}
    with measured(figures):
        done = export(folder / "adapter", to=to, kind=kind or "f16", output=str(folder / "out"), check=check)
    answer.put({**figures, "bytes": sum(done.files.values()), "verdict": done.verdict.sentence()})


def stock(folder: Path, converter: str, answer: Any) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    figures: dict[str, float] = {}
    with measured(figures):
        base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.bfloat16)
        merged = PeftModel.from_pretrained(base, folder / "adapter").merge_and_unload()
        merged.save_pretrained(folder / "out", max_shard_size="5GB")
        AutoTokenizer.from_pretrained(folder / "base").save_pretrained(folder / "out")
        if converter:
            command = [
                sys.executable,
                converter,
                folder / "out",
                "--outtype",
                "f16",
                "--outfile",
                folder / "out" / "x.gguf",
            ]
            subprocess.run(command, check=True)
    answer.put({**figures, "bytes": sum(path.stat().st_size for path in (folder / "out").iterdir())})


def in_a_process(work: Any, folder: Path, *arguments: Any) -> dict[str, Any]:
    """What `work` puts into its queue; its output folder is removed."""
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=work, args=(folder, *arguments, answer))
    process.start()
    process.join()
    shutil.rmtree(folder / "out", ignore_errors=True)
    return answer.get(timeout=5) if process.exitcode == 0 else {"failed": process.exitcode}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="7b1")
    parser.add_argument("--forms", nargs="+", default=["merged", "gguf:f16", "gguf:q8_0"])
    parser.add_argument(
        "--converter", default="", help="llama.cpp's convert_hf_to_gguf.py, to run after the stock merge"
    )
    parser.add_argument("--check", action="store_true", help="ours loaded again and compared, within the time")
    parser.add_argument("--folder", help="where to put the model; default: a temporary folder")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=flags.folder) as name:
        folder = Path(name)
        make_model(folder, flags.size)
        for form in flags.forms:
            print(
                json.dumps({"side": "ours", "form": form, **in_a_process(ours, folder, form, flags.check)}), flush=True
            )
        what = "merged, then converted" if flags.converter else "merged"
        print(json.dumps({"side": "stock", "form": what, **in_a_process(stock, folder, flags.converter)}), flush=True)


if __name__ == "__main__":
    main()
