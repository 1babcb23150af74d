"""A base that was quantised beforehand is known as the one that it was made from: adapters of the one go on the other."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from florilegium.errors import ModelError
from florilegium.export.subject import read_subject
from florilegium.model import base_facts, load_base
from florilegium.model.adapter_loading import load_adapter
from florilegium.model.identity import EXPORTED
from florilegium.model.weight_files import WHOLE
from florilegium.runs.export_base import export_base
from tests.export.adapters import save_adapter
from tests.tiny import save_tiny

CPU = torch.device("cpu")
BITS = {"int8": 8, "nf4": 4}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In bfloat16, which every base here holds what is not quantised in."""
    folder = save_tiny(tmp_path_factory.mktemp("base") / "wide", heads=4, head_dim=16)
    weights = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(folder / WHOLE).items()}
    save_file(weights, folder / WHOLE, {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
    return folder


@pytest.fixture(scope="module", params=["int8", pytest.param("nf4", marks=pytest.mark.slow)])
def stored(request: pytest.FixtureRequest, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("stored") / request.param
    return export_base(str(base), kind=request.param, output=str(place), check=False).directory


def adapter_of(base: Path, trained_on: Path, folder: Path, *, older: bool = False) -> Path:
    """An adapter that remembers `trained_on` as its base; `older`: as a version did that knew of no original."""
    save_adapter(base, folder, target_modules=["query_key_value"])
    facts = base_facts(load_base(str(trained_on), bits=8, device=CPU))
    if older:
        facts = replace(facts, original_digest=None)
    (folder / "florilegium.json").write_text(json.dumps({"format": 1, "base": facts.to_json()}))
    return folder


def answers(base: Path, bits: int, adapter: Path) -> torch.Tensor:
    ids = torch.randint(4, 400, (2, 24), generator=torch.Generator().manual_seed(0))
    model = load_adapter(load_base(str(base), bits=bits, device=CPU, compute="bfloat16"), adapter)
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=ids).logits
    return found


def test_adapters_go_from_the_one_to_the_other(base: Path, stored: Path, tmp_path: Path) -> None:
    """With the same answers, to the bit."""
    bits = BITS[stored.name]
    for number, trained_on in enumerate((base, stored)):
        adapter = adapter_of(base, trained_on, tmp_path / str(number))
        assert torch.equal(answers(stored, bits, adapter), answers(base, bits, adapter))


def test_what_was_trained_on_it_is_merged_into_the_original(base: Path, stored: Path, tmp_path: Path) -> None:
    adapter = adapter_of(base, stored, tmp_path / "adapter")
    assert read_subject(adapter, adapter, str(base)).other_weights is False
    other = save_tiny(tmp_path / "other", heads=4, head_dim=16, seed=1)
    assert read_subject(adapter, adapter, str(other)).other_weights is True


def test_an_adapter_of_an_earlier_version_is_still_read(base: Path, stored: Path, tmp_path: Path) -> None:
    adapter = adapter_of(base, stored, tmp_path / "adapter", older=True)
    assert answers(stored, BITS[stored.name], adapter).isfinite().all()
    with pytest.raises(ModelError, match="another weights"):
        answers(base, 8, adapter)


def flip(folder: Path) -> None:
    with (folder / WHOLE).open("r+b") as file:
        file.seek(-9, 2)
        byte = file.read(1)
        file.seek(-9, 2)
        file.write(bytes([byte[0] ^ 1]))


def forget(folder: Path) -> None:
    (folder / EXPORTED).unlink()


def break_it(folder: Path) -> None:
    (folder / EXPORTED).write_text('{"weights": "')


def claim_another(folder: Path) -> None:
    facts = json.loads((folder / EXPORTED).read_text())
    (folder / EXPORTED).write_text(json.dumps({**facts, "weights": "0" * 64}))


def claim_nonsense(folder: Path) -> None:
    facts = json.loads((folder / EXPORTED).read_text())
    (folder / EXPORTED).write_text(json.dumps({**facts, "weights": ["a"]}))


@pytest.mark.parametrize("change", [flip, forget, break_it, claim_another, claim_nonsense])
def test_what_is_not_known_to_be_it_is_refused(base: Path, stored: Path, tmp_path: Path, change: object) -> None:
    """Other numbers in it, or nothing that says where they are from: it is a base of its own, and loads as one."""
    adapter = adapter_of(base, base, tmp_path / "adapter")
    shutil.copytree(stored, tmp_path / "changed")
    change(tmp_path / "changed")  # type: ignore[operator]
    with pytest.raises(ModelError, match="another weights"):
        answers(tmp_path / "changed", 8, adapter)
