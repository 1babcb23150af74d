"""What of a base's generation_config.json is taken, and who draws by it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import florilegium
from florilegium.config import SamplingSettings
from florilegium.errors import ModelError
from florilegium.model.base_sampling import base_sampling

OURS = SamplingSettings()


@pytest.mark.parametrize(
    ("says", "taken"),
    [
        ({"do_sample": True, "temperature": 0.5, "top_p": 0.8}, {"temperature": 0.5, "top_p": 0.8}),
        ({"do_sample": True, "top_k": 20, "repetition_penalty": 1.1}, {"top_k": 20, "repetition_penalty": 1.1}),
        ({"do_sample": True, "temperature": 1}, {"temperature": 1.0}),
        ({"temperature": 0.9, "top_p": 0.6}, {}),  # such a model is greedy in Transformers, and its numbers sleep
        ({"do_sample": False, "temperature": 0.9}, {}),
        ({"do_sample": "yes", "temperature": 0.9}, {}),
        ({"do_sample": True, "temperature": 0.0, "top_k": 0}, {}),  # greedy is something to be asked for
        ({"do_sample": True, "temperature": -1.0, "top_p": 0.8}, {"top_p": 0.8}),
        ({"do_sample": True, "temperature": "hot", "top_p": None, "top_k": 2.5}, {}),
        ({"do_sample": True, "temperature": True, "top_p": 1e400, "top_k": 10**9}, {"top_k": 10**9}),
        ({"do_sample": True, "max_new_tokens": 7, "seed": 3, "num_beams": 4, "bad_words_ids": [[1]]}, {}),
        ({}, {}),
    ],
)
def test_four_numbers_are_taken_where_texts_are_drawn(
    tmp_path: Path, says: dict[str, Any], taken: dict[str, Any]
) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps(says).replace("Infinity", "1e400"))
    found = base_sampling(tmp_path)
    changed = {name: value for name, value in vars(found).items() if value != getattr(OURS, name)}
    assert changed == taken


def test_without_the_file_the_defaults_are_ours(tmp_path: Path) -> None:
    assert base_sampling(None) == base_sampling(tmp_path) == OURS


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    path = tmp_path / "generation_config.json"
    path.write_text("{")
    with pytest.raises(ModelError, match="generation_config.json"):
        base_sampling(tmp_path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ModelError, match="is not a file"):
        base_sampling(tmp_path)


def test_such_a_file_is_refused_before_a_folder_is_made(tmp_path: Path, tiny: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny, base)
    (base / "generation_config.json").write_text("{")
    with pytest.raises(ModelError, match="generation_config.json"):
        florilegium.train("sample", model=str(base), max_steps=1, device="cpu", output=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_generate_draws_as_the_base_says_unless_it_is_told(tmp_path: Path, tiny: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny, base)
    (base / "generation_config.json").write_text(json.dumps({"do_sample": True, "temperature": 3.0, "top_p": 0.99}))
    trained = florilegium.train(
        "sample", model=str(base), max_steps=1, device="cpu", verdict_texts=0, output=str(tmp_path / "run")
    )
    tuned = florilegium.load(trained.directory)
    drawn = [row.text for row in tuned.generate("The", n=3, max_new_tokens=8, seed=5)]
    asked = [row.text for row in tuned.generate("The", n=3, max_new_tokens=8, seed=5, temperature=3.0, top_p=0.99)]
    cold = [row.text for row in tuned.generate("The", n=3, max_new_tokens=8, seed=5, temperature=0.7, top_p=0.9)]
    assert drawn == asked != cold
