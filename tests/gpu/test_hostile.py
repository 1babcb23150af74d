"""Folders made to deceive, loaded onto a GPU: BLOOM's weights are read there by `tensor_reader.py`, quantised tensor by
tensor, and not by the libraries that the CPU uses. Every member is refused in one line, and the base keeps its numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

import florilegium
from florilegium.model import load_base
from florilegium.model.identity import weights_digest
from florilegium.model.weight_files import find_weights
from florilegium.storage.json_lines import read_lines
from tests.tiny import save_tiny
from tests.torture.conftest import QUOTES
from tests.torture.hostile_kinds import ADAPTERS, BASES
from tests.torture.test_hostile_folders import adapters_refused, refused

pytestmark = pytest.mark.gpu
GPU = torch.device("cuda")


@pytest.mark.parametrize("bits", [8, 4, 16])
@pytest.mark.parametrize("kind", BASES)
def test_a_base_is_refused(tiny: Path, tmp_path: Path, kind: str, bits: int) -> None:
    before = weights_digest(find_weights(tiny, "it"))
    refused(BASES[kind], tiny, tmp_path, lambda folder, number: load_base(str(folder), bits=bits, device=GPU))
    assert weights_digest(find_weights(tiny, "it")) == before and not (tmp_path / "code-ran").exists()


@pytest.mark.parametrize("head_dim", [8, 12, 16, 24])
@pytest.mark.parametrize("bits", [8, 16, 32])
def test_heads_of_any_size_are_trained_and_write(tmp_path: Path, head_dim: int, bits: int) -> None:
    """flex_attention takes 16 columns and more, and would refuse fewer while it compiles the first step."""
    model, rows = save_tiny(tmp_path / "bloom", heads=4, head_dim=head_dim), tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(quote) + "\n" for quote in QUOTES))
    settings = {"model": str(model), "bits": bits, "max_steps": 2, "verdict_texts": 0}
    losses = {}
    for kernels in ("auto", "off"):
        run = tmp_path / kernels
        florilegium.train(rows, output=str(run), device="cuda", kernels=kernels, **settings)
        losses[kernels] = [row["eval_loss"] for row in read_lines(run / "metrics.jsonl") if "eval_loss" in row]
    used = yaml.safe_load((tmp_path / "auto" / "config.yaml").read_text())["kernels"]
    assert ("flex-attention" in used) is (head_dim >= 16), used
    assert losses["auto"] == pytest.approx(losses["off"], rel=2e-2) and len(losses["off"]) >= 2
    assert len(florilegium.load(tmp_path / "auto", device="cuda").generate(n=2, max_new_tokens=4)) == 2


@pytest.fixture(scope="module")
def adapter(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run") / "run"
    rows = run.parent / "rows.jsonl"
    rows.write_text("".join(json.dumps(quote) + "\n" for quote in QUOTES))
    florilegium.train(rows, model=str(tiny), output=str(run), bits=8, max_steps=2, device="cuda", verdict_texts=0)
    return run / "adapter"


@pytest.mark.parametrize("kind", ADAPTERS)
def test_an_adapter_is_refused(tiny: Path, adapter: Path, tmp_path: Path, kind: str) -> None:
    adapters_refused(kind, load_base(str(tiny), bits=8, device=GPU), adapter, tmp_path)
