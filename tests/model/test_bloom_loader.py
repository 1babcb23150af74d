"""A BLOOM that is streamed onto a GPU is the one that Transformers loads, and never needs more memory than it and one
layer."""

from __future__ import annotations

import gc
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BloomConfig

from florilegium.model import load_base, tensor_reader
from florilegium.model.bloom_loader import PIECE, _bfloat16, load_streamed
from florilegium.model.transformers_loader import quantization_config
from florilegium.model.weight_check import refuse_empty
from florilegium.model.weight_files import find_weights
from tests.tiny import save_tiny

CUDA = torch.device("cuda")


def test_sixteen_bits_become_others_where_they_lie() -> None:
    half = torch.randn(3, PIECE // 2 + 5).half()
    wanted, place = half.to(torch.bfloat16), half.data_ptr()
    ours = _bfloat16(half)
    assert torch.equal(ours, wanted) and ours.data_ptr() == place
    assert _bfloat16(torch.ones(2)).dtype == torch.bfloat16 and _bfloat16(torch.ones(0).half()).dtype == torch.bfloat16


def rewritten(folder: Path, prefix: bool, dtype: torch.dtype) -> None:
    """Tensors named as bigscience names them, or as Transformers does today, in `dtype`."""
    (path,) = folder.glob("*.safetensors")
    tensors = {
        key.removeprefix("transformer."): tensor.to(dtype)
        for key, tensor in load_file(path).items()
        if key != "lm_head.weight"
    }
    save_file(
        {("transformer." if prefix else "") + key: tensor for key, tensor in tensors.items()}, path, {"format": "pt"}
    )


def facts(model: Any) -> dict[str, Any]:
    """Types of modules, parameters, and what bitsandbytes keeps beside them."""
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        found[name] = type(module).__name__
        weight = getattr(module, "weight", None)
        for key, parameter in module.named_parameters(recurse=False):
            found[f"{name}.{key}"] = parameter.data
        if getattr(weight, "SCB", None) is not None:
            found[f"{name}.SCB"] = weight.SCB
        state = getattr(weight, "quant_state", None)
        if state is not None:
            parts = {"absmax": state.absmax, "code": state.code, "offset": state.offset, "nested": state.state2.absmax}
            found |= {f"{name}.{key}": value for key, value in parts.items()}
            found[f"{name}.how"] = (
                state.quant_type,
                state.blocksize,
                state.dtype,
                tuple(state.shape),
                state.state2.blocksize,
            )
    return found


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("prefix", [True, False], ids=["transformer.h.0", "h.0"])
@pytest.mark.parametrize("bits", [8, 4])
def test_what_is_streamed_is_what_transformers_loads(
    tmp_path: Path, bits: int, prefix: bool, dtype: torch.dtype
) -> None:
    folder = save_tiny(tmp_path / "bloom", heads=4, head_dim=32)
    rewritten(folder, prefix, dtype)
    ours = facts(load_base(str(folder), bits=bits, device=CUDA, compute="bfloat16").model)
    # Stock converts to its dtype before it quantises; bitsandbytes' int8 is made of float16, its NF4 here of bfloat16.
    options: dict[str, Any] = {"device_map": {"": "cuda:0"}, "dtype": dtype if bits == 8 else torch.bfloat16}
    theirs = facts(
        AutoModelForCausalLM.from_pretrained(
            folder, quantization_config=quantization_config(bits, torch.bfloat16), **options
        )
    )
    assert ours.keys() == theirs.keys()
    for name, wanted in theirs.items():
        if isinstance(wanted, torch.Tensor):
            wanted = wanted.to(torch.bfloat16) if wanted.dtype == torch.float16 else wanted
            assert ours[name].dtype == wanted.dtype and ours[name].device == wanted.device, name
            assert torch.equal(ours[name], wanted), name
        else:
            assert ours[name] == wanted, name


@pytest.mark.gpu
@pytest.mark.parametrize("bits", [8, 4])
def test_loading_needs_the_model_and_one_layer(tmp_path: Path, bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """float16, as bloom-7b1 is stored; the embedding is the largest tensor, and is not there twice. Beside the layer that is
    quantised at most AHEAD bytes of the next tensors."""
    W = 1024
    monkeypatch.setattr(tensor_reader, "AHEAD", 4 << 20)
    folder = save_tiny(tmp_path / "bloom", heads=8, head_dim=128, layers=6, vocabulary=40_000)
    rewritten(folder, True, torch.float16)
    gc.collect()  # what an earlier test left
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    base = load_base(str(folder), bits=bits, device=CUDA)
    held, peak = torch.cuda.memory_allocated() - before, torch.cuda.max_memory_allocated() - before
    print(bits, f"held {held / 2**20:.0f} MiB, peak {peak / 2**20:.0f} MiB")
    assert base.bits == bits and peak - held <= 2 * 12 * W * W + tensor_reader.AHEAD


@pytest.mark.parametrize("prefix", ["", "transformer.", "transformer.transformer."])
@pytest.mark.parametrize("bits", [8, 4])
def test_the_stream_fills_every_place_whatever_the_prefix(tiny: Path, tmp_path: Path, prefix: str, bits: int) -> None:
    """On the CPU, where `load_base` does not stream: what it makes of the same tensors under each of their names."""
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    tensors = load_file(folder / "model.safetensors")
    renamed = {prefix + name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    save_file(renamed, folder / "model.safetensors", {"format": "pt"})
    config = BloomConfig.from_pretrained(folder)
    with torch.device("meta"):
        outline = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    heard: list[tuple[int, int]] = []
    files = find_weights(folder, "it").telling(lambda *count: heard.append(count))
    streamed = load_streamed(files, outline, quantization_config(bits, torch.float32), torch.device("cpu"))
    assert streamed is not None
    refuse_empty(streamed, "it")
    assert len(heard) == len(tensors) and heard[0][0] < heard[-1][0] == heard[-1][1]
    ours, stock = facts(streamed), facts(load_base(str(tiny), bits=bits, device=torch.device("cpu")).model)
    assert ours.keys() == stock.keys()
    # of int8 the scales are those of float16, which the stream rounds to before it quantises
    same = [key for key in ours if isinstance(ours[key], torch.Tensor) and "h." not in key]
    assert len(same) > 4 and all(torch.equal(ours[key].float(), stock[key].float()) for key in same)
