"""Training while other threads of the process load the run and write: each as alone, recorded graphs and all."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

import florilegium
from tests.gpu.test_other_families import SIZES, WORDS
from tests.model.small_families import make_model
from tests.runs.test_surroundings import together
from tests.tiny import make_tokenizer

pytestmark = pytest.mark.gpu


def llama(folder: Path) -> str:
    make_model("Llama", **SIZES).to(torch.bfloat16).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return str(folder)


def traces(run: Path) -> dict[str, str]:
    """What must not differ, part by part: a difference says where it began."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kept = ("step", "loss", "grad_norm", "tokens", "eval_loss")
    return {
        "steps": "\n".join(str([row.get(key) for key in kept]) for row in rows),
        "samples": (run / "samples.jsonl").read_text(),
        "adapter": hashlib.sha256((run / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest(),
    }


@pytest.mark.parametrize("base", ["seedling", "llama"])
def test_training_while_two_threads_write(tmp_path: Path, base: str) -> None:
    model = "seedling" if base == "seedling" else llama(tmp_path / "model")
    rows = tmp_path / "rows.jsonl"
    texts = [{"quote": f"Be kind to the {word} number {i}.", "tags": [word]} for i in range(20) for word in WORDS]
    rows.write_text("".join(json.dumps(row) + "\n" for row in texts))

    def train(name: str) -> dict[str, str]:
        florilegium.train(
            rows, model=model, output=str(tmp_path / name), device="cuda", max_steps=12, bits=8, split_by="random", verdict_texts=2,
        )  # fmt: skip
        return traces(tmp_path / name)

    def text() -> str:
        tuned = florilegium.load(tmp_path / "alone", device="cuda")
        return tuned.generate("Be kind", temperature=0.0, max_new_tokens=24)[0].text

    alone, written = train("alone"), text()
    assert train("again") == alone, "else nothing is said below"
    found = together(lambda: train("beside"), lambda: {text() for _ in range(4)}, lambda: {text() for _ in range(4)})
    assert found == [alone, {written}, {written}]
