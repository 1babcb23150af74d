"""A BLOOM that is stored quantised is streamed as it lies there: what Transformers loads, or a refusal."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from florilegium.errors import ModelError
from florilegium.model import load_base, stored_loader
from florilegium.model.stored_loader import NF4_STATE, load_stored
from florilegium.model.tensor_reader import TensorReader
from florilegium.model.transformers_loader import outline
from florilegium.model.weight_check import refuse_empty
from florilegium.model.weight_files import INDEX, WHOLE, find_weights
from florilegium.runs.export_base import export_base
from tests.model.test_bloom_loader import facts
from tests.tiny import save_tiny

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=[8, 4])
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quantised checkpoint."""
    place = tmp_path_factory.mktemp("stored")
    base = save_tiny(place / "base", heads=4, head_dim=16)
    kind = {8: "int8", 4: "nf4"}[request.param]
    return export_base(str(base), kind=kind, output=str(place / kind), check=False).directory


def streamed(folder: Path) -> Any:
    values = json.loads((folder / "config.json").read_text())
    return load_stored(find_weights(folder, "it"), outline(values, "it"), torch.bfloat16, CPU)


def changed(stored: Path, tmp_path: Path, change: dict[str, torch.Tensor | None]) -> Path:
    """The checkpoint with these tensors in it, or without them."""
    folder = tmp_path / "changed"
    folder.mkdir()
    (folder / "config.json").write_bytes((stored / "config.json").read_bytes())
    tensors = {**load_file(stored / WHOLE), **change}
    save_file({key: tensor for key, tensor in tensors.items() if tensor is not None}, folder / WHOLE, {"format": "pt"})
    return folder


def test_what_is_streamed_is_what_transformers_loads(stored: Path) -> None:
    ours = streamed(stored)
    refuse_empty(ours, "it")
    compare(facts(ours), facts(load_base(str(stored), device=CPU).model))


def compare(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """To the bit; what is not quantised in bfloat16, as of every base here: Transformers leaves it as it is stored."""
    assert ours.keys() == theirs.keys()
    for name, wanted in theirs.items():
        if isinstance(wanted, torch.Tensor) and name.endswith((".weight", ".bias")) and wanted.is_floating_point():
            wanted = wanted.to(torch.bfloat16)
        same = torch.equal(ours[name], wanted) if isinstance(wanted, torch.Tensor) else ours[name] == wanted
        assert same and getattr(ours[name], "dtype", None) == getattr(wanted, "dtype", None), name


def test_the_parts_of_a_weight_may_lie_in_several_files(stored: Path, tmp_path: Path) -> None:
    tensors = load_file(stored / WHOLE)
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    halves = [dict(sorted(tensors.items())[i::2]) for i in (0, 1)]
    for name, half in zip(names, halves, strict=True):
        save_file(half, tmp_path / name, {"format": "pt"})
    places = {key: name for name, half in zip(names, halves, strict=True) for key in half}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": places}))
    (tmp_path / "config.json").write_bytes((stored / "config.json").read_bytes())
    whole, parted = facts(streamed(stored)), facts(streamed(tmp_path))
    assert all(torch.equal(parted[k], v) for k, v in whole.items() if isinstance(v, torch.Tensor))


def test_no_weight_waits_on_the_device(stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the order of the file: safetensors' own puts int8 weights before all of their `weight_format`."""
    folder, waiting, most = changed(stored, tmp_path, {}), [0], [0]
    read, put = TensorReader.read_all, stored_loader._put

    def reading(reader: TensorReader, names: Iterable[str]) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in read(reader, names):
            waiting[0] += tensor.dim() == 2  # weights alone; NF4's have a second side of 1
            most[0] = max(most[0], waiting[0])
            yield name, tensor

    def putting(model: Any, name: str, found: dict[str, torch.Tensor], *rest: Any) -> None:
        waiting[0] -= found["weight"].dim() == 2
        put(model, name, found, *rest)

    monkeypatch.setattr(TensorReader, "read_all", reading)
    monkeypatch.setattr(stored_loader, "_put", putting)
    assert streamed(folder) is not None and (waiting, most) == ([0], [1])


def test_what_it_does_not_know_is_left_to_transformers(stored: Path, tmp_path: Path) -> None:
    """Ordinary numbers where the config.json says quantised, a part that is missing, one too many."""
    weight = next(key for key in load_file(stored / WHOLE) if key.endswith("dense.weight"))
    for number, change in enumerate(
        ({weight: torch.zeros(64, 64)}, {weight: None}, {"transformer.h.0.other": torch.zeros(2)})
    ):
        place = tmp_path / str(number)
        place.mkdir()
        assert streamed(changed(stored, place, change)) is None


def test_scales_that_do_not_fit_are_refused(stored: Path, tmp_path: Path) -> None:
    tensors = load_file(stored / WHOLE)
    scales = next(key for key in tensors if key.endswith(("dense.SCB", "dense.weight.absmax")))
    with pytest.raises(ModelError, match="do not fit"):
        streamed(changed(stored, tmp_path, {scales: tensors[scales][:-1].clone()}))


def test_a_state_that_speaks_of_another_weight_is_refused(stored: Path, tmp_path: Path) -> None:
    """Its sizes are what the kernels read by."""
    tensors = load_file(stored / WHOLE)
    key = next((key for key in tensors if key.endswith(f"dense.weight.{NF4_STATE}")), None)
    if key is None:
        order = next(key for key in tensors if key.endswith("dense.weight_format"))
        change = {order: torch.ones((), dtype=torch.uint8)}
    else:
        state = json.loads(bytes(tensors[key].numpy()))
        text = json.dumps({**state, "blocksize": 4096}).encode()
        change = {key: torch.frombuffer(bytearray(text), dtype=torch.uint8)}
    with pytest.raises(ModelError, match="do not fit"):
        streamed(changed(stored, tmp_path, change))


@pytest.mark.gpu
def test_on_a_gpu_it_is_streamed_and_is_what_transformers_loads(stored: Path) -> None:
    ours = facts(load_base(str(stored), device=torch.device("cuda")).model)
    theirs = facts(AutoModelForCausalLM.from_pretrained(stored, dtype=torch.bfloat16, device_map={"": "cuda:0"}))
    compare(ours, theirs)
