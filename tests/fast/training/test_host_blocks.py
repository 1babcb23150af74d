"""Blocks whose weights lie in host memory: the bits of a run without, forward, backward, and in an evaluation between.
Without a CUDA device Triton interprets the kernels and the copies are plain; with one they run on a stream of their own,
and in a recorded graph."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from florilegium import fast
from florilegium.config import make_config
from florilegium.fast.host_blocks import HostBlocks
from florilegium.fast.modules import base_linear, wrapped_linears
from florilegium.fast.training.backward_pass import BackwardPass
from florilegium.fast.training.forward_pass import ForwardPass
from florilegium.fast.training.saved_activations import SavedInputs
from florilegium.model import ForwardOptions, LoadedModel, attach_adapter, load_base, token_losses
from florilegium.model.families.bloom import bloom_model
from florilegium.tokens import Batch, Example, PackPlan, pack
from tests.tiny import save_tiny

GPU = torch.cuda.is_available()
pytestmark = pytest.mark.skipif(
    not GPU and "TRITON_INTERPRET" not in os.environ, reason="no CUDA device, and not interpreted"
)
DEVICE = torch.device("cuda" if GPU else "cpu")
DTYPE = torch.bfloat16 if GPU else torch.float32
KINDS = ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")
LAYERS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("host") / "bloom", heads=2, head_dim=32, layers=LAYERS, noise=0.02)


def prepared(folder: Path, bits: int, kept: int | None) -> tuple[LoadedModel, HostBlocks | None]:
    """A tuned model; `kept`: blocks that come back to the device, of all, which were taken to the host; None: none were."""
    base = load_base(str(folder), bits=bits, device=DEVICE, compute="bfloat16" if GPU else "float32")
    host = None if kept is None else HostBlocks(DEVICE)
    for number, block in enumerate(bloom_model(base.model).h if host is not None else ()):
        for kind, linear in zip(KINDS, wrapped_linears(block), strict=True):  # type: ignore[arg-type]
            host.take(number, kind, base_linear(linear))  # type: ignore[union-attr,arg-type]
    torch.manual_seed(3)
    settings = {"lora_rank": 4, "lora_dropout": 0.3, "bits": bits, "target_modules": "all-linear"}
    model = attach_adapter(base, make_config(settings))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(std=0.03)
    if host is not None:
        host.keep_on_device(kept or 0)
    return LoadedModel(base, model), host


def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(4, 400, (n,), generator=generator).tolist() for n in (9, 2, 31, 5)]
    (packed,) = pack([Example([*row, 2], [True] * (len(row) + 1)) for row in rows], PackPlan(64, 64))
    return packed


def three_passes(loaded: LoadedModel, host: HostBlocks | None, plan: tuple[int, int, int]) -> list[torch.Tensor]:
    """Losses and gradients of a step, of an evaluation, and of a step again."""
    stack = fast.make_block_stack(bloom_model(loaded.model), *plan, DTYPE, host=host)
    options, found = ForwardOptions(("chunked-loss",), block_stack=stack), []
    for train in (True, False, True):
        loaded.model.train(train)
        loaded.model.zero_grad()
        torch.manual_seed(5)  # of the dropout
        with torch.set_grad_enabled(train):
            losses = token_losses(loaded, batch().to(DEVICE), options)
        found.append(losses.detach())
        if train:
            losses.sum().backward()
            found += [p.grad.clone() for p in loaded.model.parameters() if p.grad is not None]
    return found


@pytest.mark.slow  # in the interpreter, minutes each
@pytest.mark.parametrize(
    ("bits", "plan", "kept"),
    [(8, (0, 9, 0), 0), (4, (0, 0, 0), 0), (8, (2, 3, 0), 1), (4, (9, 9, 0), 3), (8, (0, 9, 0), 4)],
)
def test_the_bits_are_those_of_a_run_without(folder: Path, bits: int, plan: tuple[int, int, int], kept: int) -> None:
    """Activations recomputed and kept, dropout on, some blocks back on the device, one alone in the slots, none."""
    there = three_passes(*prepared(folder, bits, None), plan)
    loaded, host = prepared(folder, bits, kept)
    assert host is not None and len(host) == LAYERS - kept
    here = three_passes(loaded, host, plan)
    assert len(here) == len(there) > 16 and all(torch.equal(a, b) for a, b in zip(here, there, strict=True))
    assert any(float(grad.abs().max()) > 0 for grad in here[1:])


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_a_pass_in_which_memory_runs_out_rejoins_its_copies(
    folder: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, host = prepared(folder, 8, 0)
    assert host is not None
    stack = fast.make_block_stack(bloom_model(loaded.model), 0, 9, 0, DTYPE, host=host)
    left: list[bool] = []

    @contextlib.contextmanager
    def rejoined() -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError:
            left.append(any(event is not None for event in host.copied) or host.stream is None)
            raise

    def full(*_: object) -> None:
        host.need(1)
        raise torch.OutOfMemoryError

    monkeypatch.setattr(host, "rejoined", rejoined)
    one = torch.zeros(64, 64, device=DEVICE)
    numbers = torch.zeros(64, dtype=torch.int32, device=DEVICE)
    forward = ForwardPass(stack, numbers, numbers + 64, numbers, None)
    with pytest.raises(torch.OutOfMemoryError):
        if where == "forward":
            monkeypatch.setattr(ForwardPass, "_block", full)
            forward.run(one, save=True)
        else:
            monkeypatch.setattr(BackwardPass, "_block", full)
            monkeypatch.setattr(BackwardPass, "_into_last_block", lambda *_: one)
            BackwardPass(forward, wants_input_grad=False).run(one, [SavedInputs(one, None)], one)
    assert left == [True]


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="no CUDA device")
@pytest.mark.parametrize("where", [ForwardPass, BackwardPass])
def test_a_recording_in_which_memory_runs_out_is_made_again(tmp_path: Path, where: type) -> None:
    """The error is that of the memory, not one of an unjoined stream, and what is recorded next has the same bits."""
    folder = save_tiny(tmp_path / "bloom", heads=8, head_dim=128, layers=LAYERS, noise=0.02)
    loaded, host = prepared(folder, 8, 0)
    assert host is not None
    stack = fast.make_block_stack(bloom_model(loaded.model), 0, 9, 0, host=host)
    options = ForwardOptions(("chunked-loss",), block_stack=stack)
    parameters = [p for p in loaded.model.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    given, block = batch(), where._block

    def gradients(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        loss = token_losses(loaded, replace(given, **inputs), options).sum()
        torch._foreach_add_([p.grad for p in parameters], torch.autograd.grad(loss, parameters))
        return loss.detach()

    def full(self: object, *rest: object) -> object:
        if torch.cuda.is_current_stream_capturing():
            raise torch.OutOfMemoryError("CUDA out of memory, for a test")
        return block(self, *rest)

    loaded.model.eval()
    run = fast.CudaGraphRunner(gradients, [p.grad for p in parameters if p.grad is not None])
    tensors = {
        f.name: getattr(given, f.name) for f in fields(given) if isinstance(getattr(given, f.name), torch.Tensor)
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(where, "_block", full)
        with pytest.raises(torch.OutOfMemoryError, match="for a test"):
            run(tensors)
    run.clear()
    torch._foreach_zero_([p.grad for p in parameters])
    first, gradient = run(tensors).clone(), [p.grad.clone() for p in parameters if p.grad is not None]
    torch._foreach_zero_([p.grad for p in parameters])
    expected = gradients(tensors | {name: t.to(DEVICE) for name, t in tensors.items()})
    assert torch.equal(first, expected)
    assert all(torch.equal(a, p.grad) for a, p in zip(gradient, parameters, strict=True) if p.grad is not None)


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="no CUDA device")
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("kept", [0, 2])
def test_a_recorded_step_copies_too(tmp_path: Path, bits: int, kept: int) -> None:
    """The graph's copies are its own: evaluations and other lengths between the replays leave no trace in it."""
    folder = save_tiny(tmp_path / "bloom", heads=8, head_dim=128, layers=LAYERS, noise=0.02)

    def recorded(loaded: LoadedModel, host: HostBlocks | None) -> list[torch.Tensor]:
        stack = fast.make_block_stack(bloom_model(loaded.model), 0, 9, 0, host=host)
        options = ForwardOptions(("chunked-loss",), block_stack=stack)
        parameters = [p for p in loaded.model.parameters() if p.requires_grad]
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        given = batch()

        def gradients(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
            loss = token_losses(loaded, replace(given, **inputs), options).sum()
            torch._foreach_add_([p.grad for p in parameters], torch.autograd.grad(loss, parameters))
            return loss.detach()

        loaded.model.eval()  # without dropout, whose seed a replay draws anew
        run = fast.CudaGraphRunner(gradients, [p.grad for p in parameters if p.grad is not None])
        tensors = {
            f.name: getattr(given, f.name) for f in fields(given) if isinstance(getattr(given, f.name), torch.Tensor)
        }
        found = []
        for _ in range(4):
            found.append(run(tensors).clone())
            with torch.no_grad():
                token_losses(loaded, given.to(DEVICE), options)
        return [*found, *(p.grad for p in parameters if p.grad is not None)]

    here, there = recorded(*prepared(folder, bits, kept)), recorded(*prepared(folder, bits, None))
    assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))
