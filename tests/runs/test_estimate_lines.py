"""The lines of `florilegium estimate`: what a number of them says must be so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from florilegium.cli.main import main
from tests.runs.test_estimate import folder_of


def test_weights_that_stay_in_16_bits_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a mixture most of them: no --bits makes its experts smaller. Small sizes and long steps have digits."""
    mixtral = tmp_path / "mixtral"
    mixtral.mkdir()
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 4}
    kind = {"model_type": "mixtral", "vocab_size": 1000, "num_local_experts": 8, "num_key_value_heads": 4}
    (mixtral / "config.json").write_text(json.dumps({**kind, **sizes}))
    assert main(["estimate", "--model", str(mixtral), "--gpu", "T4"]) == 0
    # 3 blocks of 8 experts with three matrices of 256 x 512: 18 MiB in 16 bits; attention 768 kB, both embeddings 1 MB
    assert "int8 weights 20 MiB, 18 MiB of them in 16 bits" in capsys.readouterr().out
    assert main(["estimate", "--model", str(folder_of("bloom-176b", tmp_path)), "--device", "cpu"]) == 5
    assert "e+0" not in capsys.readouterr().out
