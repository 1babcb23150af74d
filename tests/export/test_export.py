"""`florilegium export`: loaded again and compared before it has a name; wrong, it leaves nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from florilegium.cli.main import main
from florilegium.export.merge import Merge
from tests.export.adapters import KINDS, save_adapter


def exported(run: Path, output: Path, *more: str) -> int:
    return main(["export", str(run), "--output", str(output), *more])


def test_merged_is_checked_and_says_so(tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "merged"
    assert exported(tiny_run, out, "--to", "merged", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    verdict = report["verdict"]
    assert verdict["passed"] and verdict["greedy_equal"] == verdict["greedy_texts"] == verdict["rows"] == 32
    assert verdict["rows_are"] == "held-out rows" and verdict["largest_distance"] < 1e-3
    assert abs(verdict["loss_live"] - verdict["loss_exported"]) < 1e-4
    kept = json.loads((out / "export.json").read_text())
    assert kept["verdict"] == verdict and kept["files"].keys() == {p.name for p in out.iterdir()} - {"export.json"}
    card = (out / "README.md").read_text()
    assert "greedy texts equal 32 of 32" in card and str(tmp_path) not in card and str(tiny_run) not in card


def test_unchecked_says_so_in_its_card(tiny_run: Path, tmp_path: Path) -> None:
    assert exported(tiny_run, tmp_path / "merged", "--no-check") == 0
    assert "not checked: asked not to (--no-check)" in (tmp_path / "merged" / "README.md").read_text()
    assert json.loads((tmp_path / "merged" / "export.json").read_text())["verdict"]["passed"] is None


def test_a_wrong_export_is_found_and_removed(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The merge forgets the adapter: the model loads, writes text, and is not the one that was tuned."""
    rows = Merge.rows

    def forgetful(self: Merge, tensor: Any) -> Any:
        self.adapter.changes.pop(tensor.name, None)
        return rows(self, tensor)

    monkeypatch.setattr(Merge, "rows", forgetful)
    assert exported(tiny_run, tmp_path / "out" / "merged") == 4
    assert "failed its check and was removed" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_an_adapter_alone(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One that PEFT saved, with no run around it: it names its base, and is compared on the bundled sayings."""
    adapter = save_adapter(tiny, tmp_path / "adapter", **KINDS["dora"])
    shutil.copytree(tiny, tmp_path / "tokenizer")
    assert main(["export", str(adapter), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["directory"] == str(tmp_path / "adapter-merged") and report["verdict"]["rows_are"] == "bundled quotes"
    assert report["verdict"]["greedy_equal"] == 32


def test_what_stands_there_is_not_overwritten(tiny_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "merged"
    out.mkdir()
    (out / "mine").write_text("x")
    assert exported(tiny_run, out, "--no-check") == 2
    assert exported(tiny_run, out, "--no-check", "--force") == 0
    assert (tmp_path / "merged.old-1" / "mine").is_file() and (out / "config.json").is_file()


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (["--to", "onnx"], 2, "Optimum"),
        (["--type", "q8_0"], 2, "--to gguf"),
        (["--model", "/nowhere/at/all"], 4, "no model folder"),
        (["--data", "/nowhere.jsonl"], 3, "nowhere.jsonl"),
    ],
)
def test_what_cannot_be(
    tiny_run: Path, tmp_path: Path, flags: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exported(tiny_run, tmp_path / "out", *flags) == code
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_base_that_changed_since(
    tiny: Path, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file, save_file

    run, base = tmp_path / "run", tmp_path / "base"
    shutil.copytree(tiny_run, run)
    shutil.copytree(tiny, base)
    tensors = load_file(base / "model.safetensors")
    name = "transformer.word_embeddings.weight"
    save_file(tensors | {name: tensors[name] + 1}, base / "model.safetensors", {"format": "pt"})
    facts = json.loads((run / "adapter" / "florilegium.json").read_text())
    facts["base"]["name"] = str(base)
    (run / "adapter" / "florilegium.json").write_text(json.dumps(facts))
    assert exported(run, tmp_path / "out") == 4
    assert "other weights" in capsys.readouterr().err
    assert exported(run, tmp_path / "out", "--model", str(base)) == 0  # asked for by name: its own answers are compared


def test_stock_peft_loads_what_the_adapter_names(tiny_run: Path) -> None:
    from peft import AutoPeftModelForCausalLM

    named = json.loads((tiny_run / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert Path(named).is_absolute() and "~" not in named
    assert AutoPeftModelForCausalLM.from_pretrained(tiny_run / "adapter").peft_config["default"].r == 16
