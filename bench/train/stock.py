"""The stock recipe on one GPU, as the notebook has it, as a tuner would have it, and in float32: what
`bench/train/gpu.py` compares with.

`notebook`: Transformers, PEFT and bitsandbytes int8, `prepare_model_for_kbit_training`, batches of 4 padded and
accumulated to a step, float16 autocast with a gradient scaler, checkpointed blocks. `tuned`: TRL's SFTTrainer on the
same int8 base in bfloat16, rows of like length together, of the 16 as many at a time as the card holds, with
checkpointed blocks and without: the faster of the two. In `float32` nothing is quantised: the oracle of the losses."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

RATE = 2e-4


def same_adapter(model: Any) -> None:
    """The same start for every side, B not zero so that the first steps already differ from the base."""
    generator = torch.Generator().manual_seed(7)
    for name, parameter in sorted(model.named_parameters()):
        if "lora_" in name:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)


def load(folder: Path, kind: str, dropout: float, targets: list[str] | str) -> Any:
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    options: dict[str, Any] = {"device_map": {"": "cuda:0"}, "dtype": torch.float32}
    if kind == "notebook":
        options |= {"quantization_config": BitsAndBytesConfig(load_in_8bit=True), "dtype": torch.float16}
    model = AutoModelForCausalLM.from_pretrained(folder, **options)
    if kind == "notebook":
        model = prepare_model_for_kbit_training(model)
    if kind == "codes":
        round_to_codes(model)
    lora = LoraConfig(r=16, lora_alpha=32, lora_dropout=dropout, target_modules=targets, task_type="CAUSAL_LM")
    model = get_peft_model(model, lora)
    same_adapter(model)
    return model.train()


def round_to_codes(model: Any) -> None:
    """Each linear of a block becomes what bitsandbytes' int8 codes of it stand for."""
    from bitsandbytes.functional import int8_vectorwise_quant

    for module in model.transformer.h.modules():
        if isinstance(module, torch.nn.Linear):
            codes, scale, _ = int8_vectorwise_quant(module.weight.data.half())
            module.weight.data = codes.float() * (scale.float() / 127)[:, None]


def padded(group: list[Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    longest = max(len(e.token_ids) for e in group)
    ids = torch.full((len(group), longest), 3)
    mask = torch.zeros_like(ids)
    for b, example in enumerate(group):
        ids[b, : len(example.token_ids)] = torch.tensor(example.token_ids)
        mask[b, : len(example.token_ids)] = 1
    return ids.cuda(), mask.cuda(), ids.masked_fill(mask == 0, -100).cuda()


def stock_side(
    folder: Path, steps: list[list[Any]], kind: str, dropout: float, targets: list[str] | str
) -> dict[str, Any]:
    """Tokens/s over all steps but the first two, the peak, and the loss of every step."""
    began = time.perf_counter()
    model = load(folder, kind, dropout, targets)
    loading = time.perf_counter() - began
    half = kind == "notebook"
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0)
    scaler = torch.amp.GradScaler("cuda", enabled=half)
    losses, norms = [], []
    for number, examples in enumerate(steps):
        if number == 2:
            torch.cuda.synchronize()
            began = time.perf_counter()
        total = sum(len(e.token_ids) - 1 for e in examples)
        loss_sum = torch.zeros((), device="cuda")
        for start in range(0, len(examples), 4):
            ids, mask, labels = padded(examples[start : start + 4])
            with torch.autocast("cuda", torch.float16) if half else contextlib.nullcontext():
                loss = model(input_ids=ids, attention_mask=mask, labels=labels, num_items_in_batch=total).loss
            scaler.scale(loss).backward()
            loss_sum += loss.detach()
        scaler.unscale_(optimizer)
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, 1.0))
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss_sum)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    return {
        "side": f"stock {kind}",
        "tokens_per_second": round(sum(len(e.token_ids) for s in steps[2:] for e in s) / seconds, 1),
        "ms_per_step": round(1000 * seconds / (len(steps) - 2), 1),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
        "load_seconds": round(loading, 1),
        "losses": [round(float(loss), 5) for loss in losses],
        "gradient_norms": [round(float(norm), 5) for norm in norms],
    }


def tuned_side(folder: Path, steps: list[list[Any]], dropout: float, targets: list[str] | str) -> dict[str, Any]:
    """The faster of its two ways; nothing but `missing` where TRL is not installed."""
    nothing = {"side": "stock tuned", "tokens_per_second": 0.0, "losses": []}
    if importlib.util.find_spec("trl") is None:
        return {**nothing, "missing": "trl"}
    found = [_widest(folder, steps, dropout, targets, checkpointed) for checkpointed in (False, True)]
    best = max(
        (one for one in found if one),
        key=lambda one: float(one["tokens_per_second"]),
        default={**nothing, "out_of_memory": True},
    )
    return {
        **best,
        "tried": [
            [one["rows_at_a_time"], one["checkpointed"], one["tokens_per_second"], one["peak_gib"]]
            for one in found
            if one
        ],
    }


def _widest(
    folder: Path, steps: list[list[Any]], dropout: float, targets: list[str] | str, checkpointed: bool
) -> dict[str, Any] | None:
    """As many of the 16 rows at a time as the card holds: the longest come together, and first."""
    for rows_at_a_time in (16, 8, 4, 2, 1):
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        with contextlib.suppress(torch.OutOfMemoryError):  # and the traceback goes, which holds the model
            return _tuned(folder, steps, dropout, targets, rows_at_a_time, checkpointed)
    return None


def _tuned(
    folder: Path,
    steps: list[list[Any]],
    dropout: float,
    targets: list[str] | str,
    rows_at_a_time: int,
    checkpointed: bool,
) -> dict[str, Any]:
    """TRL on the rows of `steps`, in its own order: rows of like length together. Tokens/s over all steps but the first
    two."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    began = time.perf_counter()
    quantised = BitsAndBytesConfig(load_in_8bit=True)
    model = AutoModelForCausalLM.from_pretrained(
        folder, device_map={"": 0}, dtype=torch.bfloat16, quantization_config=quantised
    )
    loading = time.perf_counter() - began
    rows = Dataset.from_list([{"input_ids": list(e.token_ids)} for step in steps for e in step])
    counts: list[int] = []
    times: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]  # Transformers is not typed
        def on_step_end(self, *_: Any, **__: Any) -> None:
            torch.cuda.synchronize()
            times.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as output:
        settings = SFTConfig(
            output_dir=output, per_device_train_batch_size=rows_at_a_time, gradient_accumulation_steps=16 // rows_at_a_time,
            max_steps=len(steps), train_sampling_strategy="group_by_length",
            bf16=True, gradient_checkpointing=checkpointed, max_length=None, learning_rate=RATE, lr_scheduler_type="constant",
            optim="adamw_torch_fused", report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        lora = LoraConfig(r=16, lora_alpha=32, lora_dropout=dropout, target_modules=targets, task_type="CAUSAL_LM")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        trainer = SFTTrainer(
            model, args=settings, train_dataset=rows, processing_class=tokenizer, peft_config=lora, callbacks=[Clock()]
        )
        inner = trainer.data_collator

        def counted(features: list[Any]) -> Any:
            counts.append(sum(len(f["input_ids"]) for f in features))
            return inner(features)

        trainer.data_collator = counted
        trainer.train()
    seconds, parts = times[-1] - times[1], 16 // rows_at_a_time
    return {
        "side": "stock tuned",
        "rows_at_a_time": rows_at_a_time,
        "checkpointed": checkpointed,
        "tokens_per_second": round(sum(counts[2 * parts : len(times) * parts]) / seconds, 1),
        "ms_per_step": round(1000 * seconds / (len(times) - 2), 1),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
        "load_seconds": round(loading, 1),
        "losses": [],
    }
