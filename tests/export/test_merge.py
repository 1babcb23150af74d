"""A merged model answers as base and adapter together do, whatever the adapter is; and is never made from int8."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from florilegium.errors import ModelError
from florilegium.export.base_weights import BaseWeights
from florilegium.export.merge import Merge
from florilegium.export.merged_folder import merged_bytes, write_merged
from florilegium.storage.atomic_folders import new_folder
from tests.export.adapters import KINDS, save_adapter
from tests.tiny import make_bloom, make_tokenizer, save_tiny


def write(base: Path, adapter: Path, out: Path) -> Path:
    with BaseWeights(base, base.name) as weights:
        merge = Merge(weights, adapter)
        with new_folder(out, {}, needed=merged_bytes(merge), manifest="export.json") as folder:
            write_merged(folder, merge, adapter)
    return out


def logits(folder: Path, adapter: Path | None = None) -> torch.Tensor:
    ids = torch.randint(4, 400, (2, 24), generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        live = PeftModel.from_pretrained(model, adapter) if adapter else model
        return live.eval()(ids).logits


@pytest.mark.parametrize("kind", KINDS)
def test_merged_is_the_live_adapter(tiny: Path, tmp_path: Path, kind: str) -> None:
    adapter = save_adapter(tiny, tmp_path / "adapter", **KINDS[kind])
    live, merged = logits(tiny, adapter), logits(write(tiny, adapter, tmp_path / "merged"))
    assert (live - logits(tiny)).abs().max() > 0.05  # the adapter does something
    assert (live - merged).abs().max() < 2e-4 * live.abs().max()
    tied = json.loads((tmp_path / "merged" / "config.json").read_text())["tie_word_embeddings"]
    assert tied == (not kind.startswith(("head", "embedding")))


@pytest.mark.parametrize("heads", [3, 5, 16])
def test_other_shapes(tmp_path: Path, heads: int) -> None:
    base = save_tiny(tmp_path / "base", heads=heads)
    adapter = save_adapter(base, tmp_path / "adapter", **KINDS["all-linear"])
    merged = write(base, adapter, tmp_path / "merged")
    torch.testing.assert_close(logits(merged), logits(base, adapter), rtol=1e-4, atol=1e-3)


def test_sharded_and_named_as_the_source(tmp_path: Path) -> None:
    """bigscience's files name their tensors without `transformer.`; two files stay two, bfloat16 stays bfloat16."""
    base = tmp_path / "base"
    model = make_bloom().to(torch.bfloat16)
    model.save_pretrained(base, max_shard_size="40KB")
    make_tokenizer().save_pretrained(base)
    index = json.loads((base / "model.safetensors.index.json").read_text())
    for file in sorted(set(index["weight_map"].values())):
        tensors = load_file(base / file)
        save_file({k.removeprefix("transformer."): v for k, v in tensors.items()}, base / file, {"format": "pt"})
    index["weight_map"] = {k.removeprefix("transformer."): v for k, v in index["weight_map"].items()}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    config = json.loads((base / "config.json").read_text())
    config |= {
        "quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True},
        "_name_or_path": "/home/x",
    }
    (base / "config.json").write_text(json.dumps(config))
    adapter = save_adapter_of(model, tmp_path)
    out = write(base, adapter, tmp_path / "merged")
    assert {p.name for p in out.glob("*.safetensors")} == {p.name for p in base.glob("*.safetensors")}
    written = json.loads((out / "model.safetensors.index.json").read_text())
    assert written["weight_map"] == index["weight_map"]
    assert written["metadata"]["total_size"] == index["metadata"]["total_size"]
    merged = {k: v for p in out.glob("*.safetensors") for k, v in load_file(p).items()}
    assert {v.dtype for v in merged.values()} == {torch.bfloat16}
    before = {k.removeprefix("transformer."): v for k, v in model.state_dict().items()}
    changed = {k for k, v in merged.items() if not torch.equal(v, before[k])}
    assert changed == {k for k in merged if k.endswith("query_key_value.weight")}
    assert json.loads((out / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
    kept = json.loads((out / "config.json").read_text())
    assert "quantization_config" not in kept and "_name_or_path" not in kept


def save_adapter_of(model: object, tmp_path: Path) -> Path:
    make_bloom().save_pretrained(tmp_path / "plain")
    return save_adapter(tmp_path / "plain", tmp_path / "adapter", **KINDS["qkv"])


def test_rows_at_a_time_are_the_whole(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = save_adapter(tiny, tmp_path / "adapter", **KINDS["embedding-dora"])
    whole = load_file(write(tiny, adapter, tmp_path / "whole") / "model.safetensors")
    monkeypatch.setattr("florilegium.export.lora_change.PIECE", 100)
    pieces = load_file(write(tiny, adapter, tmp_path / "pieces") / "model.safetensors")
    for name, tensor in whole.items():
        torch.testing.assert_close(pieces[name], tensor, rtol=1e-6, atol=1e-6)


def test_int8_weights_are_refused(tiny: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    save_tiny(base)
    tensors = load_file(base / "model.safetensors")
    name = "transformer.h.0.self_attention.query_key_value.weight"
    save_file(tensors | {name: tensors[name].to(torch.int8)}, base / "model.safetensors", {"format": "pt"})
    adapter = save_adapter(tiny, tmp_path / "adapter", **KINDS["qkv"])
    with pytest.raises(ModelError, match="quantised already.*original 16-bit"):
        write(base, adapter, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_an_adapter_of_another_base(tiny: Path, tmp_path: Path) -> None:
    other = save_tiny(tmp_path / "other", heads=8)
    adapter = save_adapter(other, tmp_path / "adapter", **KINDS["qkv"])
    with pytest.raises(ModelError, match="does not fit"):
        write(tiny, adapter, tmp_path / "merged")


def test_a_number_too_large_for_the_base(tmp_path: Path) -> None:
    base = tmp_path / "base"
    make_bloom().half().save_pretrained(base)
    make_tokenizer().save_pretrained(base)
    adapter = save_adapter(base, tmp_path / "adapter", size=1000.0, **KINDS["qkv"])
    with pytest.raises(Exception, match="too large for float16"):
        write(base, adapter, tmp_path / "merged")
    assert list(tmp_path.glob("*merged*")) == list(tmp_path.glob(".*merged*")) == []
