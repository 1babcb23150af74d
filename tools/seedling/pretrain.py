"""The student reads the corpus, several times, as fast as the machine can.

Muon (`torch.optim.Muon`) moves the matrices, AdamW the embedding, norms and biases. The learning rate warms up, holds,
and falls in a straight line to zero. After a few steps the step's time is known, and the number of steps is fixed:
`epochs` passes, or what fits in `seconds`.

The last third of the steps, while the rate falls, takes a third of its rows from the finest sayings: a small model
ends where its last batches were.

Half of the documents are read without the `</s>` before them, because a prompt written by a user has none.

Every `SAVE_EVERY` steps the whole state goes to `checkpoint.safetensors`; a run that was stopped goes on from there
with the same batches."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from .pack import ROW, encode, pack
from .student import TrainingForward, new_student
from .tokenizer import documents

SAVE_EVERY, LOG_EVERY, EVALUATE_EVERY, TIMED_STEPS = 2000, 100, 500, 30
WARM_UP, HOLD = 100, 0.2  # steps; share of all steps
FINE_FROM, FINE_SHARE = 0.65, 0.35  # share of all steps; share of the rows of a batch


def make_optimizers(model: Any, matrix_rate: float, other_rate: float) -> dict[str, torch.optim.Optimizer]:
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embeddings" not in name]
    embedding = [p for name, p in model.named_parameters() if p.ndim == 2 and "embeddings" in name]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": embedding, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
    return {
        "muon": torch.optim.Muon(
            matrices, lr=matrix_rate, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
        ),
        "adamw": torch.optim.AdamW(groups, lr=other_rate, betas=(0.9, 0.95), fused=matrices[0].is_cuda),
    }


def rate_factor(step: int, steps: int) -> float:
    hold = HOLD * steps
    return min(1.0, (step + 1) / WARM_UP) * min(1.0, (steps - step) / max(1.0, steps - hold))


def draw(step: int, rows: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    """The `count` rows of a step: each epoch in its own order; an epoch's incomplete last batch is left out."""
    epoch, index = divmod(step, len(rows) // count)
    order = np.random.default_rng((seed, epoch)).permutation(len(rows))[index * count : (index + 1) * count]
    return rows[torch.from_numpy(order).to(rows.device)].long()


def batch_of(step: int, steps: int, rows: torch.Tensor, fine: torch.Tensor, batch_rows: int, seed: int) -> torch.Tensor:
    count = min(int(FINE_SHARE * batch_rows), len(fine)) if step >= FINE_FROM * steps else 0
    batch = draw(step, rows, batch_rows, seed)
    return torch.cat([batch[count:], draw(step, fine, count, seed)]) if count else batch


def save_checkpoint(
    path: Path, step: int, steps: int, model: Any, optimizers: dict[str, torch.optim.Optimizer]
) -> None:
    tensors = {f"model.{name}": p.detach() for name, p in model.named_parameters()}
    for kind, optimizer in optimizers.items():
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"{kind}.{index}.{name}": value for name, value in state.items()}
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata={"step": str(step), "steps": str(steps)})
    partial.rename(path)


def load_checkpoint(path: Path, model: Any, optimizers: dict[str, torch.optim.Optimizer]) -> tuple[int, int]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(tensors[f"model.{name}"])
    for kind, optimizer in optimizers.items():
        whole = optimizer.state_dict()
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith(f"{kind}."):
                _, index, key = name.split(".")
                state.setdefault(int(index), {})[key] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": whole["param_groups"]})
    return int(metadata["step"]), int(metadata["steps"])


def held_out_rows(work: Path, most: int, seed: int) -> np.ndarray:
    from transformers import AutoTokenizer

    return pack(
        encode(AutoTokenizer.from_pretrained(work / "tokenizer"), documents(work / "heldout.jsonl")), ROW, seed
    )[:most]


def run(
    work: Path, seed: int, epochs: float, seconds: float, batch_rows: int = 128, matrix_rate: float = 5e-3, other_rate: float = 3e-3,
    shape: dict[str, int] | None = None, stop_after: int | None = None,
) -> None:  # fmt: skip
    """Write `student/`. `shape` and `stop_after` (steps, as if interrupted) are for tests."""
    if (work / "student" / "model.safetensors").exists():
        print("pretrain: done before")
        return
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    rows, fine = (
        torch.from_numpy(np.load(work / f"{name}.npy").astype(np.int16)).to(device) for name in ("rows", "finest")
    )
    held_out = torch.from_numpy(held_out_rows(work, 2 * batch_rows, seed).astype(np.int64)).to(device)
    torch.manual_seed(seed)
    model = new_student(**(shape or {})).to(device)
    optimizers, forward = make_optimizers(model, matrix_rate, other_rate), TrainingForward(model, dtype)
    rates = {kind: optimizer.param_groups[0]["lr"] for kind, optimizer in optimizers.items()}
    most_steps = int(epochs * (len(rows) // batch_rows))
    step, steps, checkpoint = 0, most_steps, work / "checkpoint.safetensors"
    if checkpoint.exists():
        step, steps = load_checkpoint(checkpoint, model, optimizers)
        print(f"pretrain: goes on from step {step}")
    first = step
    parameters = sum(p.numel() for p in model.parameters())
    print(
        f"pretrain: {parameters:,} parameters, {len(rows):,} rows, {most_steps:,} steps for {epochs} epochs", flush=True
    )

    def evaluate() -> float:
        with torch.no_grad():
            losses = [forward(some).item() for some in torch.split(held_out, batch_rows)]
        return sum(losses) / len(losses)

    began = logged = began_timed = time.perf_counter()
    log = (work / "pretrain.jsonl").open("a")
    while step < steps:
        if step == first + 10:
            began_timed = time.perf_counter()
        if first == 0 and step == 10 + TIMED_STEPS:  # compiled and warm: now the step's time is known
            if device.type == "cuda":
                torch.cuda.synchronize()
            per_step = (time.perf_counter() - began_timed) / TIMED_STEPS
            steps = min(most_steps, int((seconds - (time.perf_counter() - began)) / (per_step * 1.03)) + step)
            passes = steps / (len(rows) // batch_rows)
            print(f"pretrain: {per_step * 1e3:.1f} ms a step, so {steps:,} steps = {passes:.1f} epochs", flush=True)
        generator = torch.Generator(device).manual_seed(seed * 1_000_003 + step)
        batch = batch_of(step, steps, rows, fine, batch_rows, seed)
        hide_BT = torch.rand(batch.shape[0], batch.shape[1] - 1, device=device, generator=generator) < 0.5
        loss: torch.Tensor = forward(batch, hide_BT)
        loss.backward()  # type: ignore[no-untyped-call]
        for kind, optimizer in optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = rates[kind] * rate_factor(step, steps)
            optimizer.step()
            optimizer.zero_grad()
        step += 1
        if step % LOG_EVERY == 0 or step == steps or step <= 10:
            now = time.perf_counter()
            record = {"step": step, "loss": round(loss.item(), 4), "seconds": round(time.perf_counter() - began, 1)}
            if step % EVALUATE_EVERY == 0 or step == steps:
                record["held_out_loss"] = round(evaluate(), 4)
            if step > 10:
                record["tokens_per_second"] = round(
                    min(LOG_EVERY, step - first) * batch_rows * (ROW - 1) / (now - logged)
                )
            logged = time.perf_counter()
            print("pretrain:", json.dumps(record), flush=True)
            log.write(json.dumps(record) + "\n")
            log.flush()
        if step == stop_after or (step % SAVE_EVERY == 0 and step < steps):
            save_checkpoint(checkpoint, step, steps, model, optimizers)
            if step == stop_after:
                return
    model.save_pretrained(work / "student")
    checkpoint.unlink(missing_ok=True)
    read = (step - first) * batch_rows * (ROW - 1)
    print(f"pretrain: {step - first:,} steps, {read:,} tokens in {time.perf_counter() - began:.1f} s")
