"""The fused blocks on several processes, some of the blocks on each: the losses and gradients of one stack of all blocks,
to the last bit of float32 where Triton interprets the kernels. `python -m pytest -m gpu tests/fast/training/test_stages.py`
on a machine with two GPUs runs them there too, over NCCL."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from safetensors.torch import load_file

from florilegium.fast.training import norm_kernel, residual_kernel
from florilegium.fast.training.norm_kernel import PendingUpdate, Residual
from florilegium.model import ForwardOptions, LoadedModel, Stage, stage_output, token_losses
from florilegium.tokens import Batch, pack
from florilegium.training import Distributed
from tests.fast.training.stage_process import (
    KEPT,
    LAYERS,
    LENGTHS,
    PLAN,
    Plan,
    fused,
    gradients_of,
    pipeline_of,
    seeded,
    stage_of,
)
from tests.oracle import rows_of
from tests.tiny import save_tiny
from tests.torture.many import metrics

GPU = torch.cuda.is_available()
pytestmark = pytest.mark.skipif(
    not GPU and "TRITON_INTERPRET" not in os.environ, reason="no CUDA device, and not interpreted"
)
DEVICE = torch.device("cuda" if GPU else "cpu")
DTYPE = torch.bfloat16 if GPU else torch.float32
FAR = 3e-2 if GPU else 1e-6  # where a product may be summed in another order; else nothing differs
PLANS: dict[str, Plan] = {
    "fast": KEPT,
    "lean": (0, 9, 0),
    "least": (0, 0, 0),
    "mixed": (1, 1, 1),  # of each stage: counted from its own first block
    "copies": (9, 9, 9),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("stages") / "bloom", heads=2, head_dim=32, layers=LAYERS, noise=0.02)


@pytest.fixture(scope="module")
def two_blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("stages") / "small", heads=2, head_dim=32, layers=2, noise=0.02)


def test_between_two_stages_goes_every_bit_of_the_residual_stream() -> None:
    """The next stage's first norm finds what it would have found in the same process: saved, error and normed."""
    torch.manual_seed(0)
    T, W = 6, 192
    norm = torch.nn.LayerNorm(W, device=DEVICE).requires_grad_(False)
    saved = (torch.randn(T, W, device=DEVICE) * 10 ** torch.linspace(-6, 4, T, device=DEVICE)[:, None]).bfloat16()
    left = torch.randint(-128, 128, (T, W), dtype=torch.int8, device=DEVICE)
    raw = (torch.randn(T, W, device=DEVICE) * 9).bfloat16()
    update = PendingUpdate(raw, torch.rand(W, device=DEVICE), torch.randn(W, device=DEVICE))
    sent = residual_kernel.residual_sum(Residual(saved, left), update)
    unit = torch.ldexp(torch.ones(T, W, device=DEVICE), torch.frexp(saved.float()).exponent - 16).double()
    exact = saved.double() + left.double() * unit + raw.double() * update.scale + update.bias
    assert sent.dtype == torch.float32 and float(((sent - exact).norm() / exact.norm()).cpu()) < 1e-7

    here, there = (torch.empty(T, W, dtype=torch.bfloat16, device=DEVICE) for _ in range(2))
    once = norm_kernel.residual_norm(Residual(saved, left.clone()), update, norm, here)
    again = norm_kernel.residual_norm(Residual(sent, None), None, norm, there)
    assert torch.equal(once.rounded, again.rounded) and torch.equal(here, there)
    assert once.error is not None and again.error is not None and torch.equal(once.error, again.error)
    assert int(once.error.abs().max()) > 100


def test_the_gradient_between_two_stages_is_rounded_once() -> None:
    """What a norm's backward kernel writes for the next linear, and the same by way of float32 and another process."""
    torch.manual_seed(0)
    T, W = 6, 192
    norm = torch.nn.LayerNorm(W, device=DEVICE).requires_grad_(False)
    torch.nn.init.normal_(norm.weight)
    above, scaled, saved = (torch.randn(T, W, device=DEVICE).to(DTYPE) for _ in range(3))
    scale, next_scale = torch.rand(2, W, device=DEVICE) + 0.1
    wide = scaled.float().clone()
    norm_kernel.residual_norm_grad(wide, above, saved, norm, scale, torch.ones(W, device=DEVICE))
    sent = residual_kernel.scaled_residual_grad(wide, next_scale, DTYPE)
    norm_kernel.residual_norm_grad(scaled, above, saved, norm, scale, next_scale)
    assert sent.dtype == DTYPE and torch.equal(sent, scaled)


def apart(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    assert ours.keys() == theirs.keys()
    a, b = (torch.cat([found[name].flatten().double() for name in sorted(found)]) for found in (ours, theirs))
    assert bool(b.any())
    return float((a - b).norm() / b.norm())


def one_stack(loaded: LoadedModel, options: ForwardOptions, batches: list[Batch]) -> torch.Tensor:
    losses = [token_losses(loaded, batch, options) for batch in batches]
    for part in losses:
        part.sum().backward()
    return torch.cat(losses).detach()


def through_stages(stages: list[tuple[LoadedModel, ForwardOptions]], batches: list[Batch]) -> torch.Tensor:
    """All micro-batches forward through all stages before the first comes back, as a stage far from the last has them."""
    waiting, losses = [], []
    for batch in batches:
        passed: list[tuple[torch.Tensor | None, torch.Tensor]] = []
        received: torch.Tensor | None = None
        for loaded, options in stages:
            out = stage_output(loaded, batch, options, received)
            passed.append((received, out))
            received = out.detach().requires_grad_()  # by way of another process
        losses.append(passed[-1][1].detach())
        waiting.append(passed)
    for passed in waiting:
        gradient: torch.Tensor | None = None
        for received, out in reversed(passed):
            (out.sum() if gradient is None else out).backward(gradient)
            assert received is None or (received.grad is not None and received.grad.dtype == torch.float32)
            gradient = None if received is None else received.grad
    return torch.cat(losses)


def compare(
    folder: Path, cuts: list[int], bits: int, dropout: float, targets: str, plans: list[Plan], micro_batches: int = 1
) -> None:
    """Stages whose other blocks are on the meta device, and one stack of all blocks that keeps all."""
    layers = cuts[-1]
    batches = [batch.to(DEVICE) for batch in seeded(pack(rows_of(LENGTHS[:6]), PLAN))][:micro_batches]
    assert len(batches) == micro_batches
    whole = stage_of(folder, bits, DEVICE, dropout, targets, None)
    exact = one_stack(whole, fused(whole), batches)
    held = [Stage(first, last, layers) for first, last in zip(cuts, cuts[1:], strict=False)]
    parts = [stage_of(folder, bits, DEVICE, dropout, targets, stage) for stage in held]
    for plan in plans:
        for part in parts:
            part.model.zero_grad()
        ours = through_stages([(part, fused(part, plan)) for part in parts], batches)
        found = {name: grad for part in parts for name, grad in gradients_of(part).items()}
        errors = float((ours - exact).abs().max() / exact.abs().max()), apart(found, gradients_of(whole))
        print(bits, dropout, targets, cuts, plan, errors)
        assert max(errors) <= FAR, plan


def test_two_stages_are_one_stack(two_blocks: Path) -> None:
    """Of the same block the same numbers are dropped, whichever stage has it."""
    compare(two_blocks, [0, 1, 2], 8, 0.3, "auto", [KEPT])


@pytest.mark.slow  # in the interpreter, as those below
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("targets", ["auto", "all-linear"])
@pytest.mark.parametrize("bits", [8, 4])
def test_stages_are_one_stack_under_each_plan(folder: Path, bits: int, targets: str, dropout: float) -> None:
    """Each plan with dropout, which is drawn again where activations are made again; without it those that differ most."""
    compare(
        folder, [0, 2, 4], bits, dropout, targets, list(PLANS.values()) if bits == 8 and dropout else [KEPT, (0, 0, 0)]
    )


@pytest.mark.slow
@pytest.mark.parametrize("targets", ["dense_h_to_4h", "dense,dense_4h_to_h"])
def test_the_gradient_leaves_a_block_whose_first_linear_has_no_adapter(folder: Path, targets: str) -> None:
    compare(folder, [0, 2, 4], 8, 0.3, targets, [KEPT, (0, 0, 0)])


@pytest.mark.slow
def test_a_stage_in_the_middle_has_neither_embedding_nor_head(folder: Path) -> None:
    """And holds two micro-batches, as it does until the first gradient comes."""
    compare(folder, [0, 1, 3, 4], 8, 0.3, "auto", [KEPT, (0, 0, 0), (9, 9, 9)], micro_batches=2)


def test_another_block_drops_other_numbers(folder: Path) -> None:
    """Were the streams counted from a stage's own first block, both stages would draw the same."""
    loaded = stage_of(folder, 8, DEVICE, 0.3, "all-linear", None)
    streams: list[int] = []
    for held in (range(0, 2), range(2, 4)):
        stack = fused(loaded, held=held).block_stack
        streams += [linear.stream for linear in stack.all_linears()]  # type: ignore[union-attr]  # fast_paths' own
    whole = fused(loaded).block_stack
    assert streams == [linear.stream for linear in whole.all_linears()]  # type: ignore[union-attr]
    assert len(set(streams)) == 4 * LAYERS


def processes(folder: Path, out: Path, bits: int, dropout: float, targets: str) -> None:
    """Two processes with half of the blocks each leave what one stack of all blocks finds."""
    out.mkdir()
    device = "cuda" if GPU else "cpu"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    given = [str(folder), str(out), device, str(bits), str(dropout), targets]
    done = subprocess.run(
        [*launcher, "-m", "tests.fast.training.stage_process", *given], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    left = [load_file(out / f"{rank}.safetensors") for rank in range(2)]
    figures = [found.pop("figures") for found in left]
    whole = stage_of(folder, bits, DEVICE, dropout, targets, None)
    options = fused(whole)
    batches = [
        batch.to(DEVICE)
        for batch in seeded(pipeline_of(folder, Distributed(0, 2, 0, DEVICE)).micro_batches(rows_of(LENGTHS), PLAN))
    ]
    count = sum(batch.num_targets for batch in batches)
    assert figures[0][2] == figures[1][2] == len(batches) > 2  # the first stage has two under way
    losses = [token_losses(whole, batch, options).sum() / count for batch in batches]
    for loss in losses:
        loss.backward()
    whole.model.eval()
    with torch.no_grad():
        evaluated = sum(float(token_losses(whole, batch, options).sum()) for batch in batches)
    assert figures[0][:2].tolist() == [0.0, 0.0]  # the head is the other's
    assert float(figures[1][0]) == pytest.approx(float(torch.stack(losses).sum()), rel=FAR or 1e-7)
    assert float(figures[1][1]) == pytest.approx(evaluated, rel=FAR or 1e-7)
    assert not set(left[0]) & set(left[1])
    assert apart(left[0] | left[1], gradients_of(whole)) <= FAR


@pytest.mark.slow
@pytest.mark.skipif(GPU, reason="gloo and the interpreter: on a CPU")
def test_two_processes_are_one(two_blocks: Path, tmp_path: Path) -> None:
    processes(two_blocks, tmp_path / "out", 8, 0.3, "query_key_value,dense_4h_to_h")


@pytest.mark.slow
@pytest.mark.skipif(GPU, reason="gloo and the interpreter: on a CPU")
def test_a_run_of_fused_stages_is_that_of_one_process(two_blocks: Path, tmp_path: Path) -> None:
    """Of the command itself: the plans of both stages, the steps, the evaluations and the files, beside one process of
    plain blocks."""
    lines = [
        {"quote": f"Time number {n} is a slow river and hope its boat.", "tags": ["time", f"t{n % 3}"]}
        for n in range(24)
    ]
    (tmp_path / "quotes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = "--bits 8 --dtype float32 --device cpu --max-steps 2 --batch-size 6 --save-every 2 --eval-every 2 --verdict-texts 0"
    given = ["train", "quotes.jsonl", "--model", str(two_blocks), *settings.split(), "--lora-dropout", "0"]
    given += ["--batching", "tile-aligned", "--target-modules", "query_key_value,dense"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    pipeline = ["tests.fast.training.interpreted_run", *given, "--parallel", "pipeline", "--output", "two"]
    two = subprocess.run([*launcher, *pipeline], capture_output=True, text=True, cwd=tmp_path)
    assert two.returncode == 0, two.stderr[-3000:]
    said = two.stdout + two.stderr
    assert (
        "fused-blocks" in said
        and "predicted peaks of all processes:" in said
        and "0: blocks 1 and the embedding" in said
    )
    one = subprocess.run(
        [sys.executable, "-m", "florilegium", *given, "--output", "one"], capture_output=True, cwd=tmp_path
    )
    assert one.returncode == 0, one.stderr[-3000:]
    runs = [tmp_path / "two", tmp_path / "one"]
    # in evaluation Transformers' plain blocks are themselves 3e-6 from what they are in training
    for name, rel in (("loss", 1e-6), ("grad_norm", 1e-5), ("eval_loss", 3e-5)):
        ours, theirs = (metrics(run, name) for run in runs)
        assert len(ours) == 2 and ours == pytest.approx(theirs, rel=rel), name
    adapters = [load_file(run / "adapter" / "adapter_model.safetensors") for run in runs]
    assert adapters[0].keys() == adapters[1].keys()
    # AdamW's first steps divide a gradient by itself: of a number that is nearly nothing they show the rounding
    moved = max(float(tensor.abs().max()) for tensor in adapters[1].values())
    assert max(float((adapters[0][n] - adapters[1][n]).abs().max()) for n in adapters[1]) < 1e-3 * moved
    figures = json.loads((tmp_path / "two" / "manifest.json").read_text())
    assert "fused-blocks" in figures["fast"] and len(figures["stage_forecast_bytes"]) == 2


@pytest.mark.gpu
@pytest.mark.skipif(not GPU or torch.cuda.device_count() < 2, reason="fewer than two GPUs")
@pytest.mark.parametrize("targets", ["auto", "all-linear"])
@pytest.mark.parametrize("bits", [8, 4])
def test_two_gpus_are_one(folder: Path, tmp_path: Path, bits: int, targets: str) -> None:
    processes(folder, tmp_path / "out", bits, 0.3, targets)
