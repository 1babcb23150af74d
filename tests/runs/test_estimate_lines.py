"""The lines of `florilegium estimate`: what a number of them says must be so."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from transformers import BertConfig, BertForMaskedLM

from florilegium.cli.main import main
from tests.runs.test_estimate import folder_of
from tests.tiny import make_tokenizer


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


def advised(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 5) -> str:
    assert main(["estimate", *argv]) == code
    return capsys.readouterr().err.split(". ")[-1].strip()


def test_under_a_limit_the_limit_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It was a card of 8 GB, to somebody who has one of 80. What is told works."""
    given = ["--model", str(folder_of("bloom-7b1", tmp_path)), "--gpu", "H100", "--memory", "lean"]
    fix = advised(capsys, *given, "--bits", "4", "--gpu-memory-limit", "2")
    said = re.fullmatch(r"Raise --gpu-memory-limit to ([\d.]+), with --bits 4 --memory lean", fix)
    assert said, fix
    assert main(["estimate", *given, "--bits", "4", "--gpu-memory-limit", said[1]]) == 0


def test_what_would_fit_is_a_choice_that_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A base stored in 8 bits is not sent to 4, and no card is offered twice."""
    bloom = folder_of("bloom-7b1", tmp_path)
    fix = advised(capsys, "--model", str(bloom), "--gpu", "1")
    assert fix == "Choose a smaller --model, or a card of 8 GB (RTX 4060) with --bits 4 --memory lean"
    values = json.loads((bloom / "config.json").read_text())
    values["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    (bloom / "config.json").write_text(json.dumps(values))
    fix = advised(capsys, "--model", str(bloom), "--gpu", "1")
    assert "a card of 10 GB (RTX 3080) with --bits 8 --memory lean, or one of 8 GB (RTX 4060)" in fix


def test_so_many_cards_as_are_told_are_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`Use more of them, or --bits 4` was told of two cards of 24 GB for 176B, which do not do with 4 bits either."""
    giant = ["--model", str(folder_of("bloom-176b", tmp_path)), "--gpu", "24"]
    fix = advised(capsys, *giant, "--gpus", "2")
    said = re.fullmatch(r"Use (\d+) of them", fix)
    assert said, fix
    assert main(["estimate", *giant, "--gpus", said[1]]) == 0
    assert advised(capsys, *giant[:3], "80", "--gpus", "2") == "Use 3 of them or --bits 4"
    assert advised(capsys, *giant[:3], "2", "--gpus", "2") == "Choose a smaller --model, or larger cards"


@pytest.mark.parametrize(
    ("where", "kernels", "said"),
    [
        (["--gpu", "T4"], "fused-blocks", "compute in bfloat16"),
        (["--gpu", "24", "--bits", "16"], "fused-blocks", "on a base of 8 or 4 bits"),
        (["--gpu", "24"], "nonsense", "unknown kernel 'nonsense'; available: fused-blocks"),
        (["--device", "cpu"], "fused-blocks", "its kernels need CUDA"),
    ],
)
def test_kernels_are_refused_as_train_does(
    where: list[str], kernels: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["estimate", *where, "--kernels", kernels]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("command", [["estimate", "--gpu", "24"], ["train", "--max-steps", "1"]])
def test_an_encoder_is_refused_before_it_is_downloaded(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its estimate said that it fits, and `train` refused it once it was there."""
    monkeypatch.chdir(tmp_path)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertForMaskedLM(BertConfig(vocab_size=400, **sizes)).save_pretrained(tmp_path / "bert")
    make_tokenizer().save_pretrained(tmp_path / "bert")
    assert main([*command, "--model", str(tmp_path / "bert")]) == 4
    assert "is an encoder (BertForMaskedLM)" in capsys.readouterr().err


def test_a_number_that_is_a_text_is_shown_as_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`hidden_size is 4096, and it must be a whole number` was told of "4096"."""
    bloom = folder_of("bloom-7b1", tmp_path)
    (bloom / "config.json").write_text((bloom / "config.json").read_text().replace("4096", '"4096"'))
    assert main(["estimate", "--model", str(bloom), "--gpu", "24"]) == 4
    assert "says hidden_size is '4096', and it must be a whole number" in capsys.readouterr().err


@pytest.mark.parametrize("more", [[], ["--for", "generate"]])
def test_it_is_told_by_how_much_it_does_not_fit(
    more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bloom = folder_of("bloom-7b1", tmp_path)
    assert main(["estimate", "--model", str(bloom), "--gpu", "8", "--memory", "lean", *more]) == 5
    told = re.search(
        r"([\d.]+) GiB is needed, ([\d.]+) GiB more than the 6.9 GiB of a GPU of 8 GB", capsys.readouterr().err
    )
    assert told is not None
    assert float(told[1]) - 6.9 == pytest.approx(float(told[2]), abs=0.11)
