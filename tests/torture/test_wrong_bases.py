"""An adapter on another base: twelve ways to be wrong, and the ways to be right that must not be refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from florilegium.errors import ModelError
from florilegium.model import load_adapter, load_base
from florilegium.tokens import Example, PackPlan, pack
from tests.tiny import make_tokenizer, save_tiny

CPU = torch.device("cpu")


def make_gpt2(folder: Path) -> Path:
    from transformers import GPT2Config, GPT2LMHeadModel

    GPT2LMHeadModel(GPT2Config(vocab_size=400, n_embd=32, n_layer=2, n_head=4, n_positions=64)).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def edited(source: Path, folder: Path, change: Callable[[dict[str, torch.Tensor], dict], None]) -> Path:
    """A copy of a model folder with other tensors or another config."""
    shutil.copytree(source, folder)
    tensors, config = load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text())
    change(tensors, config)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def one_bit(tensors: dict[str, torch.Tensor], config: dict) -> None:
    tensors["transformer.h.1.mlp.dense_4h_to_h.weight"].view(torch.int32).view(-1)[77] ^= 1


def other_tokenizer(source: Path, folder: Path, change: Callable[[dict], None]) -> Path:
    shutil.copytree(source, folder)
    values = json.loads((folder / "tokenizer.json").read_text())
    change(values)
    (folder / "tokenizer.json").write_text(json.dumps(values))
    return folder


def swap_two_words(values: dict) -> None:
    words = values["model"]["vocab"]
    a, b = [word for word, number in words.items() if number in (300, 301)]
    words[a], words[b] = words[b], words[a]


def fewer_merges(values: dict) -> None:
    values["model"]["merges"] = values["model"]["merges"][:-20]


def wrong_bases(tiny: Path, folder: Path) -> dict[str, Path]:
    """Twelve folders, none of which is the base that the adapter was made for."""
    return {
        "same shape, other weights": save_tiny(folder / "1", seed=1),
        "one layer fewer": save_tiny(folder / "2", layers=1),
        "one layer more": save_tiny(folder / "3", layers=3),
        "other vocabulary": save_tiny(folder / "4", vocabulary=500),
        "wider": save_tiny(folder / "5", heads=8),
        "narrower heads, as wide": save_tiny(folder / "6", heads=8, head_dim=4),
        "another family": make_gpt2(folder / "7"),
        "one bit of one weight": edited(tiny, folder / "8", one_bit),
        "its layers in another order": edited(tiny, folder / "9", _swap_layers),
        "words swapped in the tokenizer": other_tokenizer(tiny, folder / "10", swap_two_words),
        "tokenizer with fewer merges": other_tokenizer(tiny, folder / "11", fewer_merges),
        "another number of heads in the config": edited(
            tiny, folder / "12", lambda tensors, config: config.update(n_head=2)
        ),
    }


def _swap_layers(tensors: dict[str, torch.Tensor], config: dict) -> None:
    for name in [n for n in tensors if n.startswith("transformer.h.0.")]:
        other = name.replace(".h.0.", ".h.1.")
        tensors[name], tensors[other] = tensors[other].clone(), tensors[name].clone()


def test_twelve_wrong_bases_and_the_right_ones(
    tiny: Path, reference: Callable[..., Path], tmp_path: Path, figure: Callable[[str, str], None]
) -> None:
    adapter = reference() / "adapter"
    accepted, lines = [], []
    wrong = wrong_bases(tiny, tmp_path)
    for what, folder in wrong.items():
        try:
            load_adapter(load_base(str(folder), bits=32, device=CPU), adapter)
            accepted.append(what)
        except ModelError as error:
            lines.append(str(error))
            assert "\n" not in str(error) and error.fix and len(str(error)) < 500, error
    assert not accepted, accepted
    assert any("hidden_size (32, here 64)" in line for line in lines) and any(
        "another tokenizer" in line for line in lines
    )
    refused = _right_bases(tiny, adapter, reference, tmp_path)
    assert not refused, refused
    figure(
        "wrong base",
        f"{len(accepted)} of {len(wrong)} wrongly accepted, {len(refused)} of 7 wrongly refused, one line each",
    )


def _right_bases(tiny: Path, adapter: Path, reference: Callable[..., Path], tmp_path: Path) -> list[str]:
    """The same base elsewhere, in other bits, its card changed; and an adapter of PEFT's own, which remembers no
    base."""
    refused = []
    moved = tmp_path / "moved"
    shutil.copytree(tiny, moved)
    (moved / "README.md").write_text("# mine")
    plain = tmp_path / "plain"
    shutil.copytree(adapter, plain)
    (plain / "florilegium.json").unlink()
    pattern = tmp_path / "pattern"
    shutil.copytree(plain, pattern)
    values = json.loads((pattern / "adapter_config.json").read_text())
    (pattern / "adapter_config.json").write_text(
        json.dumps({**values, "target_modules": r".*\.(query_key_value|dense)$"})
    )
    for folder, bits, source in [
        (tiny, 32, adapter), (tiny, 8, adapter), (tiny, 4, adapter), (tiny, 16, adapter), (moved, 32, adapter), (tiny, 32, plain),
        (tiny, 32, pattern),
    ]:  # fmt: skip
        try:
            model = load_adapter(load_base(str(folder), bits=bits, device=CPU), source)
            assert _moves(model), source
        except ModelError as error:
            refused.append(str(error))
    return refused


def _moves(model: torch.nn.Module) -> bool:
    """Whether the adapter is really on it."""
    return any(bool(p.abs().sum() > 0) for name, p in model.named_parameters() if "lora_B" in name)


@pytest.mark.parametrize("damage", ["a bit", "alpha", "rank", "fewer", "more", "target"])
def test_a_damaged_adapter_is_refused(tiny: Path, reference: Callable[..., Path], tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(reference() / "adapter", folder)
    values = json.loads((folder / "adapter_config.json").read_text())
    data = bytearray((folder / "adapter_model.safetensors").read_bytes())
    if damage == "a bit":
        data[-3] ^= 4
        (folder / "adapter_model.safetensors").write_bytes(data)
    elif damage in ("fewer", "more"):
        # As PEFT made it, without florilegium.json: matrices of a layer that the base lacks, or a layer without its
        # own.
        (folder / "florilegium.json").unlink()
        tensors = load_file(folder / "adapter_model.safetensors")
        names = [name for name in tensors if ".h.1." in name]
        changed = {n.replace(".h.1.", ".h.7."): tensors[n].clone() for n in names} if damage == "more" else {}
        kept = {n: t for n, t in tensors.items() if damage == "more" or n not in names}
        save_file({**kept, **changed}, folder / "adapter_model.safetensors")
    else:
        change = {"alpha": {"lora_alpha": 64.0}, "rank": {"r": 8}, "target": {"target_modules": ["dense"]}}[damage]
        (folder / "adapter_config.json").write_text(json.dumps({**values, **change}))
    with pytest.raises(ModelError) as refused:
        load_adapter(load_base(str(tiny), bits=32, device=CPU), folder)
    assert refused.value.fix and "\n" not in str(refused.value)


def test_an_adapter_goes_on_its_base_with_the_same_numbers(tiny: Path, reference: Callable[..., Path]) -> None:
    from florilegium.model import LoadedModel, hidden_states

    (batch,) = pack([Example([5, 60, 7, 200, 9, 33], [True] * 6)], PackPlan())
    outputs = []
    for _ in range(2):
        base = load_base(str(tiny), bits=32, device=CPU)
        outputs.append(hidden_states(LoadedModel(base, load_adapter(base, reference() / "adapter")), batch))
    assert torch.equal(*outputs)
