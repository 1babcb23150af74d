"""The benches' giants: files of holes are the model that is written out whole, and stock Transformers reads that one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.common import stored_model
from bench.common.stored_model import HOLES, SMALL, DrawnReader, make_stored
from florilegium.model import load_base
from florilegium.model.stored_loader import load_stored
from florilegium.model.tensor_reader import TensorReader
from florilegium.model.transformers_loader import outline
from florilegium.model.weight_files import find_weights
from tests.model.test_bloom_loader import facts
from tests.model.test_stored_loader import compare

PROJECT = Path(__file__).parents[2]
ROWS = PROJECT / "src" / "florilegium" / "seedling" / "sayings.jsonl"
CPU = torch.device("cpu")


def streamed(folder: Path) -> Any:
    values = json.loads((folder / "config.json").read_text())
    return load_stored(find_weights(folder, "it"), outline(values, "it"), torch.bfloat16, CPU)


@pytest.mark.parametrize("bits", [8, 4])
def test_holes_are_read_as_the_numbers_that_would_be_written(
    bits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = []
    for holes in (False, True):
        folders.append(tmp_path / str(holes))
        size = make_stored(folders[-1], (256, 4, 2), 12_288, bits, ROWS, holes=holes)
    written, holes_there = (sum(path.stat().st_blocks * 512 for path in f.glob("*.safetensors")) for f in folders)
    assert written > size > 8 * holes_there
    whole = streamed(folders[0])
    read = DrawnReader(TensorReader.read_all)
    monkeypatch.setattr(TensorReader, "read_all", lambda reader, names: read(reader, names))
    for _ in range(2):  # the second load of a process is counted by itself
        drawn = facts(streamed(folders[1]))
        assert "read 0.0 GB in" in capsys.readouterr().err
        expected = facts(whole)
        assert all(torch.equal(drawn[key], v) for key, v in expected.items() if isinstance(v, torch.Tensor))
    compare(facts(whole), facts(load_base(str(folders[0]), device=CPU).model))
    assert float(whole(torch.arange(5, 40)[None]).logits.std()) > 0.1


def test_the_giants_have_the_shapes_that_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """BLOOM-176B in 4 bits: 96 GB of tensors in files that take megabytes."""
    monkeypatch.setattr(stored_model, "train_tokenizer", lambda folder, rows: None)
    size = make_stored(tmp_path, stored_model.SHAPES["176b"], 250_880, 4, ROWS)
    files = find_weights(tmp_path, "it")
    assert size == sum(tensor.num_bytes for tensor in files.tensors.values()) == 96_278_271_488
    assert len(files.paths) == 71 and (tmp_path / HOLES).is_file()
    assert sum(path.stat().st_blocks * 512 for path in files.paths) < 71 * (SMALL * 12 + (1 << 20))


@pytest.mark.slow  # three processes that import torch
def test_a_run_is_stopped_half_way_resumed_and_told(tmp_path: Path) -> None:
    words = ["tiny", "--bits", "8", "--steps", "4", "--minutes", "10", "--output", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "bench.scale.giant", *words], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    (told,) = [line.split(maxsplit=1)[1] for line in done.stdout.splitlines() if '"exit_codes"' in line]
    found = json.loads(told)
    assert found["exit_codes"] == [143, 0] and found["steps"] == found["planned"] == 4
    assert found["adapter"] and found["report"] and len(found["losses"]) == 2
