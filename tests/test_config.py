"""One list of settings, four views of it: flags, file, printed file, run's file."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from florilegium.cli.parser import build_parser
from florilegium.config import TrainConfig, dump_config, make_config, read_config
from florilegium.errors import UsageError


def test_dump_and_read_are_inverse(tmp_path: Path) -> None:
    config = make_config(
        {"data": "a: b # c.jsonl", "template": "{x}\n->: {y}", "rank": 4, "max_steps": 7, "learning_rate": 1e-05}
    )
    (tmp_path / "c.yaml").write_text(dump_config(config))
    assert make_config(read_config(tmp_path / "c.yaml")) == config
    assert make_config(yaml.safe_load(dump_config(TrainConfig()))) == TrainConfig()


def test_every_setting_is_a_flag_with_help() -> None:
    train = next(a for a in build_parser()._actions if hasattr(a, "choices") and a.choices).choices["train"]
    flags = train._option_string_actions
    for f in fields(TrainConfig):
        if f.name != "data":
            assert flags[f.metadata["flag"] or "--" + f.name.replace("_", "-")].help


@pytest.mark.parametrize(
    "values,words",
    [
        ({"rnk": 8}, "Did you mean 'lora_rank'"),
        ({"rank": "8"}, "takes int"),
        ({"dropout": "little"}, "takes float"),
        ({"rank": True}, "takes int"),
        ({"bits": 7}, "one of 8, 4, 16, 32"),
        ({"loss_on": "tag"}, "Did you mean 'tags'"),
        ({"dropout": 1.0}, "less than 1"),
        ({"learning_rate": float("inf")}, "finite"),
        ({"seed": -1}, "0 or more"),
        ({"data": None}, "takes str"),
    ],
)
def test_mistakes_name_the_key_and_what_it_takes(values: dict, words: str) -> None:
    with pytest.raises(UsageError) as error:
        make_config(values, source="run.yaml")
    assert words in str(error.value) and str(error.value).startswith("run.yaml: ")


def test_a_number_that_yaml_reads_as_text(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("learning_rate: 2e-4\n")
    assert make_config(read_config(tmp_path / "c.yaml")).learning_rate == 2e-4


@pytest.mark.parametrize("text", ["{", "- 1\n- 2", "a: [", "\x00", "x: !!python/object:os.system 1"])
def test_a_broken_file_is_a_usage_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UsageError):
        make_config(read_config(tmp_path / "c.yaml"))


def test_a_folder_is_no_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """wandb leaves a folder `wandb` where it ran, and Python imports that: Accelerate would pass over the tracker
    without a word."""
    (tmp_path / "wandb").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match="needs the package wandb. Type: pip install wandb"):
        make_config({"report_to": "wandb"})
