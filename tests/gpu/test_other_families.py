"""Other families on a card, from a folder to an adapter: layers fused where they are recognised, the step recorded where it
can be, and as it is written where not; the same losses either way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import florilegium
from tests.model.small_families import make_model
from tests.tiny import make_tokenizer

pytestmark = pytest.mark.gpu
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
}
WORDS = ("sea", "home", "night", "road")


def losses(folder: Path, name: str, family: str, **settings: Any) -> tuple[list[float], str]:
    """Of a short run, and its kernels."""
    model = folder / "model"
    if not model.exists():
        make_model(family, **SIZES).to(torch.bfloat16).save_pretrained(model)
        make_tokenizer().save_pretrained(model)
        rows = [{"quote": f"Be kind to the {word} number {i}.", "tags": [word]} for i in range(20) for word in WORDS]
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    trained = florilegium.train(
        str(folder / "rows.jsonl"), model=str(model), output=str(folder / name), device="cuda", max_steps=6,
        split_by="random", lora_dropout=0.0, verdict_texts=3, log_every=1, batching="tile-aligned", **settings,
    )  # fmt: skip
    lines = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
    found = [line["loss"] for line in lines if "loss" in line]
    assert found and trained.figures["steps"] == 6
    return found, (folder / name / "config.yaml").read_text()


@pytest.mark.parametrize("bits", [8, 4, 16])
@pytest.mark.parametrize("family", ["Llama", "Qwen3", "Mixtral"])
def test_a_run_is_that_of_the_plain_layers(tmp_path: Path, family: str, bits: int) -> None:
    fused, config = losses(tmp_path, "fused", family, bits=bits)
    assert "fused-layers" in config or family == "Mixtral", "which expert a token goes to may tip in 16 bits"
    lean, _ = losses(tmp_path, "lean", family, bits=bits, memory="lean")
    plain, config = losses(tmp_path, "plain", family, bits=bits, kernels="chunked-loss")
    assert "fused-layers" not in config
    assert lean == pytest.approx(fused, rel=2e-3), "recomputed activations are the same"
    assert fused == pytest.approx(plain, rel=2e-2)
