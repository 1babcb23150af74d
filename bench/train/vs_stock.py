"""The stock recipe and florilegium on the same rows of english_quotes, the same model, one run: tokens/s, memory, loss.

    python -m bench.train.vs_stock [--data FILE] [--steps 3] [--json]
    python -m bench.train.vs_stock --model FOLDER        a model of any family; stock's batches are of like length; --dropout 0.05
    python -m bench.train.vs_stock --size 7b1 ...        on a GPU, at a BLOOM's own size: `bench/train/gpu.py`, with its options

Stock is what the PEFT notebook does: bitsandbytes int8, prepare_model_for_kbit_training, padded batches of 4
accumulated 4 times, BLOOM's own forward and loss. The model has bloom-560m's width and vocabulary and 4 layers, random.
Each side runs in a process of its own, so that the peaks do not mix; "above the model" is the peak of the steps over
the resident size once the model is loaded. Both sides start from the same adapter, take the same rows in the same
order, and print the loss of every step: mean over its tokens. The kind of processor decides what ours computes in;
`--no-bfloat16` makes one that has bfloat16 behave as one that has not (AVX2 in ATen, oneDNN and MKL)."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

ROWS_A_STEP = 16
RATE = 2e-4
DROPOUT = 0.0  # of the adapter; another, and each side draws its own
AVX2_ALONE = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}


def make_model(folder: Path) -> None:
    """A random BLOOM in a folder, and a tokenizer trained on the rows."""
    import torch
    from transformers import BloomConfig, BloomForCausalLM

    from bench.common.checkpoint import train_tokenizer

    torch.manual_seed(0)
    config = BloomConfig(vocab_size=250_880, hidden_size=1024, n_head=16, n_layer=4)
    BloomForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    train_tokenizer(folder, DATA)


def rows_of_steps(folder: Path, steps: int) -> list[list[Any]]:
    """The examples of each step, the same for both sides."""
    from transformers import AutoTokenizer

    from florilegium.data import read_rows
    from florilegium.tokens import encode, epoch_order

    rows = read_rows(DATA)
    examples = encode(AutoTokenizer.from_pretrained(folder), rows.template, rows.quotes).examples
    return [[examples[i] for i in step] for step in epoch_order(len(examples), ROWS_A_STEP, 0, 0)[: steps + 1]]


def resident(peak: bool = False) -> int:
    """The process's resident size in bytes, now or at most since `forget_peak`."""
    field = "VmHWM:" if peak else "VmRSS:"
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def forget_peak() -> None:
    """Starts Linux' peak counter anew, so that loading the model does not count as training."""
    Path("/proc/self/clear_refs").write_text("5")


def same_adapter(model: Any) -> None:
    """The same start for both sides, B not zero so that the first steps already differ from the base."""
    import torch

    generator = torch.Generator().manual_seed(7)
    for name, parameter in sorted(model.named_parameters()):
        if "lora_" in name:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)


def stock_side(folder: Path, steps: list[list[Any]]) -> dict[str, Any]:
    """Transformers + PEFT + bitsandbytes as the notebook has it, batch 4 padded, accumulated to 16 rows."""
    import torch
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from florilegium.model.families import BLOOM, family_of

    config = BitsAndBytesConfig(load_in_8bit=True)
    model = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=config, device_map={"": "cpu"}, dtype=torch.bfloat16
    )
    model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    targets = family_of(model.config.model_type).lora_targets(model)
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, lora_dropout=DROPOUT, target_modules=targets))
    same_adapter(model)
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE, weight_decay=0.0)

    grouped = model.config.model_type not in BLOOM.model_types

    def step(examples: list[Any]) -> float:
        if grouped:
            examples = sorted(examples, key=lambda example: len(example.token_ids))
        total = sum(len(e.token_ids) - 1 for e in examples)
        loss_sum = 0.0
        for start in range(0, len(examples), 4):
            group = examples[start : start + 4]
            longest = max(len(e.token_ids) for e in group)
            ids = torch.full((len(group), longest), 3)
            for b, example in enumerate(group):
                ids[b, : len(example.token_ids)] = torch.tensor(example.token_ids)
            mask = torch.tensor([[1] * len(e.token_ids) + [0] * (longest - len(e.token_ids)) for e in group])
            labels = ids.masked_fill(mask == 0, -100)
            # num_items_in_batch makes Transformers divide by the step's tokens, as the Trainer does under accumulation.
            loss = model(input_ids=ids, attention_mask=mask, labels=labels, num_items_in_batch=total).loss
            loss.backward()
            loss_sum += float(loss.detach())
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss_sum

    return timed(step, steps)


def our_side(folder: Path, steps: list[list[Any]]) -> dict[str, Any]:
    import torch

    from florilegium import fast
    from florilegium.config import make_config
    from florilegium.model import ForwardOptions, LoadedModel, attach_adapter, fast_paths, load_base
    from florilegium.model.document_packing import Packing, find_packing, fused_layers_unsupported
    from florilegium.model.fused_layers import FusedLayers
    from florilegium.runs.recorder import NullView
    from florilegium.runs.row_packing import row_packing
    from florilegium.training import Trainer, make_lr_scheduler, make_optimizer
    from florilegium.training.loop import training_step

    base = load_base(str(folder), bits=8, device=torch.device("cpu"))
    config = make_config({"dropout": DROPOUT, "warmup": 0.0, "schedule": "constant", "device": "cpu"})
    model = attach_adapter(base, config)
    same_adapter(model)
    names, _ = fast.select_kernels("auto", base.device, 8)
    fast.install_kernels(model, names)
    optimizer = make_optimizer(model, config, RATE)
    loaded = LoadedModel(base, model)
    documents = Packing("") if base.packs else find_packing(loaded)
    layers = None
    if base.packs or documents.mask != "positions" or fused_layers_unsupported(loaded):
        names = tuple(name for name in names if name != "fused-layers")
    else:
        layers = FusedLayers(
            fast_paths.make_layer_runner(loaded, max(len(e.token_ids) for step in steps for e in step))
        )
    separate = not (base.packs or documents.mask)
    trainer = Trainer(
        loaded,
        config,
        ForwardOptions(names, document_mask=documents.mask, fused_layers=layers),
        row_packing(config, names, masked=not base.packs, separate=separate),
        optimizer,
        make_lr_scheduler(optimizer, config, 100),
    )
    return {
        **timed(lambda examples: training_step(trainer, examples, NullView()).loss, steps),
        "compute": str(base.compute_dtype),
        "processor": processor(),
    }


def processor() -> str:
    """What it is, what of it torch uses, and whether it multiplies bfloat16 itself."""
    import torch

    from florilegium.model.base import _cpu_has_bfloat16

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "processor")
    own = "bfloat16 of its own" if _cpu_has_bfloat16() else "no bfloat16 of its own"
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}, {own}, {torch.get_num_threads()} threads"


def timed(step: Any, steps: list[list[Any]]) -> dict[str, Any]:
    """One step to warm up, then the timed ones."""
    held = resident()
    forget_peak()
    losses = [step(steps[0])]
    began, worked = time.perf_counter(), time.process_time()
    losses += [step(examples) for examples in steps[1:]]
    seconds, worked = time.perf_counter() - began, time.process_time() - worked
    tokens = sum(len(e.token_ids) for examples in steps[1:] for e in examples)
    peak = resident(peak=True)
    return {
        "tokens_per_second": tokens / seconds,
        "tokens_per_core_second": tokens / worked,  # of all cores together: what holds on a machine that is shared
        "seconds_per_step": seconds / (len(steps) - 1),
        "model_bytes": held,
        "peak_bytes": peak,
        "peak_above_model_bytes": peak - held,
        "losses": losses,
    }


def run_side(side: str, folder: Path, steps: int) -> dict[str, Any]:
    command = [
        sys.executable,
        "-m",
        "bench.train.vs_stock",
        "--side",
        side,
        "--folder",
        str(folder),
        "--steps",
        str(steps),
        "--data",
        str(DATA),
        "--dropout",
        str(DROPOUT),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    if any(argument.split("=")[0] == "--size" for argument in sys.argv):
        from bench.train import gpu

        gpu.main()
        return
    global DATA, DROPOUT
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    from bench.common.checkpoint import HERE, QUOTES

    parser.add_argument(
        "--data", type=Path, default=QUOTES if QUOTES.is_file() else HERE / "src/florilegium/seedling/sayings.jsonl"
    )
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--model", type=Path, help="a model's folder, instead of the BLOOM that is made")
    parser.add_argument(
        "--dropout", type=float, default=0.0, help="of the adapter; another than 0 is drawn by each side"
    )
    parser.add_argument("--no-bfloat16", action="store_true", help="as a processor with AVX2 alone")
    parser.add_argument("--side", choices=["stock", "ours"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    DATA, DROPOUT = arguments.data, arguments.dropout
    if arguments.side:
        steps = rows_of_steps(arguments.folder, arguments.steps)
        print(json.dumps((stock_side if arguments.side == "stock" else our_side)(arguments.folder, steps)))
        return
    if arguments.no_bfloat16:
        os.environ.update(AVX2_ALONE)  # the sides inherit it
    with tempfile.TemporaryDirectory() as folder:
        if not arguments.model:
            make_model(Path(folder))
        model = arguments.model or Path(folder)
        stock, ours = (run_side(side, model, arguments.steps) for side in ("stock", "ours"))
    ratios = {
        "tokens_per_second": ours["tokens_per_second"] / stock["tokens_per_second"],
        "tokens_per_core_second": ours["tokens_per_core_second"] / stock["tokens_per_core_second"],
        "peak_above_model_bytes": ours["peak_above_model_bytes"] / stock["peak_above_model_bytes"],
        "final_loss": ours["losses"][-1] / stock["losses"][-1],
    }
    if arguments.json:
        print(json.dumps({"data": DATA.name, "stock": stock, "ours": ours, "ratios": ratios}, indent=2))
        return
    print(
        f"{DATA.name}, {ROWS_A_STEP} rows a step, {arguments.steps} steps; ours computes in {ours['compute']}\n"
        f"on {ours['processor']}"
    )
    print(f"{'':<26}{'stock':>12}{'ours':>12}{'ours/stock':>12}")
    rate = (1, ",.1f")
    shown = {
        "tokens_per_second": rate,
        "tokens_per_core_second": rate,
        "peak_above_model_bytes": (2**20, ",.0f"),
        "peak_bytes": (2**20, ",.0f"),
    }
    for name, (unit, form) in shown.items():
        label = name.replace("_bytes", "_mib")
        a, b = stock[name] / unit, ours[name] / unit
        print(f"{label:<26}{a:>12{form}}{b:>12{form}}{b / a:>12.2f}")
    print(f"{'final_loss':<26}{stock['losses'][-1]:>12.4f}{ours['losses'][-1]:>12.4f}{ratios['final_loss']:>12.4f}")


DATA = Path()

if __name__ == "__main__":
    main()
