"""Tensors read in pieces by several threads are those that the library reads; a file that is cut short is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from florilegium.errors import ModelError
from florilegium.model import tensor_reader as reading
from florilegium.model.tensor_reader import TensorReader

CPU = torch.device("cpu")
DEVICES = [CPU, pytest.param(torch.device("cuda"), marks=pytest.mark.gpu)]


def saved(path: Path) -> Path:
    torch.manual_seed(0)
    tensors = {
        "large": torch.randn(301, 77).bfloat16(), "small": torch.randn(3), "codes": torch.randint(-127, 128, (9, 5), dtype=torch.int8),
        "none": torch.empty(0, 4), "scalar": torch.tensor(2.5),
    }  # fmt: skip
    save_file(tensors, path)
    return path


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_tensors_are_the_librarys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: torch.device) -> None:
    monkeypatch.setattr(reading, "PIECE_BYTES", 1000)  # many pieces, the last one short
    path = saved(tmp_path / "m.safetensors")
    wanted = load_file(path)
    with TensorReader(path, device) as reader:
        assert sorted(reader.names) == sorted(wanted)
        for name in reader.names:
            tensor = reader.read(name)
            assert tensor.device.type == device.type and tensor.dtype == wanted[name].dtype
            assert torch.equal(tensor.cpu(), wanted[name])


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("ahead", [0, 40, 10**6])
def test_the_next_tensors_are_on_their_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: int, device: torch.device
) -> None:
    """Beside the one that is waited for, as many bytes as AHEAD says and no more."""
    monkeypatch.setattr(reading, "PIECE_BYTES", 1000)
    monkeypatch.setattr(reading, "AHEAD", ahead)
    path = saved(tmp_path / "m.safetensors")
    wanted, begun, most = load_file(path), list[str](), 0
    with TensorReader(path, device) as reader:
        start = reader._start
        monkeypatch.setattr(reader, "_start", lambda name: (begun.append(name), start(name))[1])
        sizes = {name: wanted[name].numel() * wanted[name].element_size() for name in reader.names}
        for number, (name, tensor) in enumerate(reader.read_all(reader.names)):
            assert name == reader.names[number] and torch.equal(tensor.cpu(), wanted[name])
            most = max(most, sum(sizes[other] for other in begun[number + 1 :]))
    assert begun == reader.names and most <= ahead
    assert (most > 0) is (ahead > 0)


def test_a_card_without_room_is_given_one_tensor_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And where not even that one fits, the error is the device's own."""
    path, held = saved(tmp_path / "m.safetensors"), list[str]()
    with TensorReader(path, CPU) as reader:
        start = reader._start

        def full(name: str) -> object:
            if held or name == "too large":
                raise torch.OutOfMemoryError
            held.append(name)
            return start(name)

        monkeypatch.setattr(reader, "_start", full)
        seen = []
        for name, _ in reader.read_all(reader.names):
            seen.append(name)
            held.clear()
        assert seen == reader.names
        reader.header["too large"] = reader.header["small"]
        with pytest.raises(torch.OutOfMemoryError):
            list(reader.read_all(["too large"]))


def test_nobody_waits_for_what_is_no_longer_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A load that ends with an error leaves no thread reading."""
    monkeypatch.setattr(reading, "PIECE_BYTES", 10)
    with TensorReader(saved(tmp_path / "m.safetensors"), CPU) as reader, pytest.raises(KeyError):
        for _ in reader.read_all(reader.names):
            raise KeyError
    assert not any(thread.is_alive() for thread in reader.pool._threads)


def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.safetensors")
    with TensorReader(path, CPU) as reader:
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size - 10_000)
        with pytest.raises(ModelError, match="ends before its last tensor"):
            [reader.read(name) for name in reader.names]


def test_a_shape_that_does_not_fit_its_bytes_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.safetensors")
    path.write_bytes(path.read_bytes().replace(b"[301,77]", b"[302,77]"))
    with TensorReader(path, CPU) as reader, pytest.raises(ModelError, match="does not fit its shape"):
        reader.read("large")


def test_a_type_that_is_not_known_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.safetensors")
    path.write_bytes(path.read_bytes().replace(b'"dtype":"I8"', b'"dtype":"Q8"'))
    (name,) = (name for name, entry in TensorReader(path, CPU).header.items() if entry["dtype"] == "Q8")
    with TensorReader(path, CPU) as reader, pytest.raises(ModelError, match="kind"):
        reader.read(name)


def test_nothing_stays_open_where_there_is_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "m.safetensors")

    def refused() -> None:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(reading, "_Lane", refused)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(RuntimeError):
        TensorReader(path, CPU)
    assert len(os.listdir("/proc/self/fd")) == before
