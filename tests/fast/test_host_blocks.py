"""The weights of blocks in host memory, without a kernel: whose turn it is, and what its modules read then."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from florilegium import fast
from florilegium.fast.host_blocks import HostBlocks, evenly
from florilegium.fast.modules import linears
from florilegium.model import load_base
from florilegium.model.families.bloom import bloom_model
from florilegium.runs.export_base import export_base
from tests.tiny import save_tiny

CPU = torch.device("cpu")
KINDS = ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")


def blocks_of(count: int) -> tuple[HostBlocks, list[list[nn.Linear]], list[list[torch.Tensor]]]:
    """Blocks of two linears in host memory, the modules, and what their weights were."""
    torch.manual_seed(0)
    host, modules = HostBlocks(CPU), [[nn.Linear(3, 5), nn.Linear(5, 7)] for _ in range(count)]
    wanted = [[module.weight.detach().clone() for module in pair] for pair in modules]
    for number, pair in enumerate(modules):
        for kind, module in zip(KINDS, pair, strict=False):
            host.take(number, kind, module)
    return host, modules, wanted


@pytest.mark.parametrize(("count", "kept"), [(1, 0), (2, 0), (3, 0), (7, 0), (7, 1), (7, 3), (7, 6), (7, 7)])
def test_each_block_is_there_when_its_turn_comes(count: int, kept: int) -> None:
    """Forward, an evaluation that ends there, forward and back."""
    host, modules, wanted = blocks_of(count)
    host.keep_on_device(kept)
    assert len(host) == count - kept
    for back in (False, True, True):
        host.begin()
        turns = [(number, False) for number in range(count)]
        for number, backward in turns + [(n, True) for n, _ in reversed(turns) if back]:
            host.need(number, backward=backward)
            for module, weight in zip(modules[number], wanted[number], strict=True):
                assert torch.equal(module.weight, weight), (number, backward)


def test_the_device_holds_two_blocks_and_a_copy_is_made_once_a_way() -> None:
    host, modules, _ = blocks_of(6)
    held = {module.weight.untyped_storage().data_ptr() for pair in modules for module in pair}
    assert len(held) == 2 * 2 and host.block_bytes == 4 * (15 + 35)
    copied: list[int] = []
    copy = host._copy_block
    host._copy_block = lambda place, slot: (copied.append(place), copy(place, slot))[1]  # type: ignore[method-assign]
    host.begin()
    for number, backward in [(n, False) for n in range(6)] + [(n, True) for n in reversed(range(6))]:
        assert number in host.holds  # its copy has begun before it is asked for
        host.need(number, backward=backward)
    assert copied == [0, 1, 2, 3, 4, 5, 3, 2, 1, 0]  # the last two are there when the order turns


class Streams:
    """torch.cuda's, of a machine without: which stream waits for which is written down."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, host: HostBlocks) -> None:
        self.waits: list[tuple[str, object]] = []
        compute, copies = (SimpleNamespace(name=name) for name in ("compute", "copies"))
        for stream in (compute, copies):
            stream.wait_stream = lambda other, of=stream: self.waits.append((of.name, other.name))
            stream.wait_event = lambda event, of=stream: self.waits.append((of.name, event))
            stream.record_event = lambda of=stream: f"event of {of.name}"
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: compute)
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
        host.stream = copies


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, KeyboardInterrupt])
def test_a_pass_that_breaks_off_leaves_no_copy_under_way(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else CUDA ends a recording with an error of its own, and memory that ran out is not seen for what it is."""
    host, _, _ = blocks_of(6)
    streams = Streams(monkeypatch, host)
    with pytest.raises(error), host.rejoined():
        host.begin()
        host.need(0)
        assert host.copied[1] is not None  # block 1 is on its way, and nobody waits for it yet
        raise error
    assert streams.waits[-1] == ("compute", "copies") and host.copied == host.holds == [None, None]
    with host.rejoined():
        host.begin()
        for number in range(6):
            host.need(number)
    assert streams.waits[-1] == ("compute", "event of copies")


def test_what_does_not_fit_a_chunk_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("florilegium.fast.host_blocks.CHUNK", 64)
    host, modules, wanted = blocks_of(3)
    assert len(host.blocks[0]["dense"].pieces) > 2
    host.begin()
    host.need(0)
    assert all(torch.equal(m.weight, w) for m, w in zip(modules[0], wanted[0], strict=True))


def test_blocks_are_kept_evenly() -> None:
    assert evenly(range(10), 0) == [] and evenly(range(4), 4) == [0, 1, 2, 3]
    assert evenly(range(10), 3) == [2, 5, 9] and evenly([1, 2, 7], 1) == [7]


@pytest.mark.parametrize("bits", [8, 4])
def test_a_modules_own_forward_waits_for_its_turn(tmp_path: Path, bits: int) -> None:
    """Evaluation and writing without the fused blocks: Transformers' forward, twice, by bitsandbytes and by ours."""
    folder = save_tiny(tmp_path / "bloom", heads=2, head_dim=32, layers=5)
    ids = torch.randint(4, 400, (2, 7), generator=torch.Generator().manual_seed(1))

    def logits(kept: int | None) -> torch.Tensor:
        model = load_base(str(folder), bits=bits, device=CPU, compute="float32").model
        host = HostBlocks(CPU)
        for number, block in enumerate(bloom_model(model).h if kept is not None else ()):
            for kind, linear in zip(KINDS, linears(block), strict=True):  # type: ignore[arg-type]
                host.take(number, kind, linear)  # type: ignore[arg-type]
        host.keep_on_device(kept or 0)
        found = []
        for kernels in ((), ("quantized-linear",)):
            fast.install_kernels(model, kernels)
            # copies are made of what is there alone
            with torch.no_grad(), fast.frozen_linear.dequantized_once(model, torch.bfloat16):
                found += [model(input_ids=ids).logits, model(input_ids=ids).logits]
        return torch.cat(found)

    assert torch.equal(logits(1), logits(None))


@pytest.mark.gpu
@pytest.mark.parametrize("bits", [8, 4])
def test_a_base_is_read_into_host_memory(tmp_path: Path, bits: int) -> None:
    """From 16 bits and as it is stored quantised; its logits are those of a base that is all on the card."""
    folder = save_tiny(tmp_path / "bloom", heads=4, head_dim=64, layers=5)
    kind = {8: "int8", 4: "nf4"}[bits]
    stored = export_base(str(folder), kind=kind, output=str(tmp_path / kind), check=False).directory
    device = torch.device("cuda")
    ids = torch.randint(4, 400, (2, 7), generator=torch.Generator().manual_seed(1)).to(device)
    for place in (folder, stored):
        there, here = (load_base(str(place), bits=bits, device=device, offload=offload) for offload in (False, True))
        assert here.host is not None and len(here.host) == 5
        with torch.no_grad():
            for _ in range(2):
                assert torch.equal(here.model(input_ids=ids).logits, there.model(input_ids=ids).logits)
