"""A quantised checkpoint is what bitsandbytes makes of the merged model, and stock Transformers loads it."""

from __future__ import annotations

import importlib.metadata
import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from florilegium.cli.main import main
from florilegium.export import lora_change
from florilegium.export.base_weights import BaseWeights
from florilegium.export.merge import Merge
from florilegium.export.merged_folder import merged_bytes, write_merged
from florilegium.export.quantised_folder import quantised_bytes, write_quantised
from florilegium.model import load_base
from florilegium.runs.export import export
from florilegium.runs.train import train
from florilegium.seedling import SAYINGS
from florilegium.storage.atomic_folders import new_folder
from tests.export.adapters import KINDS, save_adapter
from tests.tiny import save_tiny


def write_both(base: Path, adapter: Path, out: Path, bits: int) -> tuple[Path, Path]:
    """The merged folder, and the quantised one."""
    merged, quantised = out / "merged", out / "quantised"
    with BaseWeights(base, base.name) as weights:
        merge = Merge(weights, adapter)
        with new_folder(merged, {}, needed=merged_bytes(merge), manifest="export.json") as folder:
            write_merged(folder, merge, adapter)
        with new_folder(quantised, {}, needed=quantised_bytes(merge, bits), manifest="export.json") as folder:
            write_quantised(folder, merge, bits, adapter)
    return merged, quantised


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("kind", ["qkv", "all-linear"])
def test_it_is_what_bitsandbytes_makes_of_the_merged_model(
    tmp_path: Path, kind: str, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same codes and scales to the bit, and the same answers; quantised seven rows at a time."""
    monkeypatch.setattr(lora_change, "PIECE", 7 * 64)
    base = save_tiny(tmp_path / "base", heads=4, head_dim=16)  # 64 wide: 4-bit weights in whole groups
    adapter = save_adapter(base, tmp_path / "adapter", **KINDS[kind])
    merged, quantised = write_both(base, adapter, tmp_path, bits)
    settings = BitsAndBytesConfig(
        load_in_8bit=bits == 8, load_in_4bit=bits == 4, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
    )
    ids = torch.randint(4, 400, (2, 24), generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        theirs = AutoModelForCausalLM.from_pretrained(
            merged, quantization_config=settings, dtype=torch.float32, device_map={"": "cpu"}
        )
        theirs.save_pretrained(tmp_path / "theirs")  # first: on a processor a forward pass repacks 4-bit weights
        ours = AutoModelForCausalLM.from_pretrained(quantised, dtype=torch.float32, device_map={"": "cpu"})
        torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, rtol=0, atol=0)
    expected, found = (load_file(folder / "model.safetensors") for folder in (tmp_path / "theirs", quantised))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        if "quant_state" in name:
            state = (json.loads(bytes(values.numpy())) for values in (tensor, found[name]))
            first, second = ({key: value for key, value in values.items() if key != "dtype"} for values in state)
            assert first == second
        else:
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)


def test_a_run_is_exported_checked_and_trained_on(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "quantised"
    assert main(["export", str(tiny_run), "--to", "quantised", "--output", str(out)]) == 0
    verdict = json.loads((out / "export.json").read_text())["verdict"]
    assert verdict["passed"] and verdict["rows"] == 32, verdict
    base = load_base(str(out), bits=8, device=torch.device("cpu"))
    assert base.bits == 8
    capsys.readouterr()
    assert main(["export", str(tiny_run), "--to", "merged", "--bits", "4"]) == 2
    assert "--to quantised" in capsys.readouterr().err
    assert main(["export", str(tiny_run), "--to", "quantised", "--bits", "4", "--output", str(tmp_path / "four")]) == 4
    assert "Use --bits 8" in capsys.readouterr().err and not (tmp_path / "four").exists()


def test_four_bits_of_a_run(tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "wide", heads=4, head_dim=16)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(SAYINGS.read_text(encoding="utf-8").splitlines(keepends=True)[:300]), encoding="utf-8")
    settings = {"model": str(base), "max_steps": 1, "bits": 32, "batch_size": 4, "device": "cpu", "verdict_texts": 0}
    run = train(rows, output=str(tmp_path / "run"), held_out=0.12, **settings).directory
    done = export(run, to="quantised", kind="nf4")
    assert done.directory == run / "exports" / "quantised-nf4" and done.verdict.passed, done.verdict
    assert load_base(str(done.directory), bits=4, device=torch.device("cpu")).bits == 4


def store_as(base: Path, dtype: str) -> None:
    """The same weights, rounded."""
    tensors = {name: tensor.to(getattr(torch, dtype)) for name, tensor in load_file(base / "model.safetensors").items()}
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "dtype": dtype}))


@pytest.mark.parametrize(("bits", "dtype"), [(8, "float32"), (4, "float32"), (8, "float16"), (4, "bfloat16")])
def test_a_base_is_exported_without_a_run(
    tmp_path: Path, bits: int, dtype: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every tensor is the one that a run's export stores where its adapter changes nothing; checked, with a card."""
    base = save_tiny(tmp_path / "wide", heads=4, head_dim=16)
    store_as(base, dtype)
    adapter = save_adapter(base, tmp_path / "adapter", size=0.0, target_modules=["query_key_value"])
    _, of_a_run = write_both(base, adapter, tmp_path, bits)
    monkeypatch.chdir(tmp_path)
    assert main(["export", "wide", "--to", "quantised", "--bits", str(bits), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    out = tmp_path / {8: "wide-int8", 4: "wide-nf4"}[bits]
    assert said["directory"] == out.name and said["verdict"]["passed"] and said["verdict"]["rows"] == 32
    expected, found = (load_file(folder / "model.safetensors") for folder in (of_a_run, out))
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
    assert (
        "nothing trained" in (out / "README.md").read_text() and str(tmp_path) not in (out / "export.json").read_text()
    )
    assert load_base(str(out), bits=16, device=torch.device("cpu")).bits == bits
    assert main(["export", out.name, "--to", "quantised"]) == 4  # quantised already
    assert "16-bit model" in capsys.readouterr().err and not (tmp_path / f"{out.name}-int8").exists()


def test_a_source_tree_that_was_never_installed_exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, known = save_tiny(tmp_path / "wide", heads=4, head_dim=16), importlib.metadata.version

    def version(name: str) -> str:
        if name == "florilegium":
            raise importlib.metadata.PackageNotFoundError(name)
        return known(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert main(["export", str(base), "--to", "quantised", "--no-check", "--output", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out" / "export.json").read_text())["version"] == "unknown"


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["tiny", "--to", "merged"], 2, "--to quantised"),
        (["tiny", "--to", "quantised", "--model", "other"], 2, "Leave --model out"),
        (["tiny", "--to", "quantised", "--data", "rows.csv"], 2, "Leave --data out"),
        (["results/none", "--to", "merged"], 4, "no run or adapter"),
        (["runs/none", "--to", "quantised"], 4, "no run or adapter"),
        (["./none", "--to", "quantised"], 4, "no run or adapter"),
        (["someone/none", "--to", "quantised", "--no-check"], 4, "HF_HUB_OFFLINE"),
    ],
)
def test_what_is_no_base_to_export(
    tmp_path: Path,
    argv: list[str],
    code: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save_tiny(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    assert main(["export", *argv]) == code
    assert said in capsys.readouterr().err and [path.name for path in tmp_path.iterdir()] == ["tiny"]
