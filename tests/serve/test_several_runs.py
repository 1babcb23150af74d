"""Several runs behind one server: each is asked by its name, few are in memory, and their base is there once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest

from florilegium.config import SamplingSettings
from florilegium.generation.tuned import load
from florilegium.model.shared_base import Bases
from florilegium.seedling import FOLDER
from tests.export.adapters import save_adapter
from tests.serve.conftest import Server, serving

SETTINGS = SamplingSettings(max_new_tokens=24, seed=5)


@pytest.fixture(scope="module")
def runs(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    for number, name in enumerate(("red", "green", "blue")):
        shutil.copytree(run, folder / name)
        facts = (folder / name / "adapter" / "florilegium.json").read_text()
        shutil.rmtree(folder / name / "adapter")
        save_adapter(FOLDER, folder / name / "adapter", size=0.02, seed=number)
        (folder / name / "adapter" / "florilegium.json").write_text(facts)
    shutil.copytree(folder / "red", folder / "white")
    damaged = {**json.loads(facts), "base": {"name": "seedling", "digest": "0" * 64}}
    (folder / "white" / "adapter" / "florilegium.json").write_text(json.dumps(damaged))
    return folder


@pytest.fixture(scope="module")
def several(runs: Path) -> Iterator[Server]:
    with serving(runs, "--max-loaded", "2") as one:
        yield one


def test_each_run_writes_its_own_texts_however_often_they_take_turns(several: Server, runs: Path) -> None:
    wanted = {
        name: load(runs / name).generate("The sea", settings=SETTINGS)[0].text for name in ("red", "green", "blue")
    }
    assert len(set(wanted.values())) == 3
    base = load(runs / "red").generate("The sea", settings=SETTINGS, use_base=True)[0].text
    for name in ("red", "green", "blue", "red", "blue", "green"):
        row = several.post("/v1/quotes", model=name, prompt="The sea", seed=5, max_tokens=24).json()["data"][0]
        assert row["text"] == wanted[name], name
    (row,) = several.post("/v1/quotes", model="seedling", prompt="The sea", seed=5, max_tokens=24).json()["data"]
    assert row["text"] == base


def test_all_are_listed_and_none_is_loaded_for_that(several: Server) -> None:
    models = {model.id: model for model in several.openai.models.list()}
    assert set(models) == {"red", "green", "blue", "white", "seedling"}
    assert {models[name].parent for name in ("red", "green", "blue")} == {"seedling"}
    assert httpx.post(f"{several.url}/v1/completions", json={"model": "pink"}).status_code == 404


@pytest.mark.parametrize("bits", [32, 8, 4])
def test_adapters_on_one_base_share_its_weights_and_write_as_if_alone(runs: Path, bits: int) -> None:
    bases = Bases()
    two = [load(runs / name, bits=bits, bases=bases) for name in ("red", "blue")]
    for name, one in zip(("red", "blue"), two, strict=True):
        alone = load(runs / name, bits=bits)
        assert [r.text for r in one.generate("The sea", n=3, settings=SETTINGS)] == [
            r.text for r in alone.generate("The sea", n=3, settings=SETTINGS)
        ]
    pointers = [
        {p.data_ptr() for n, p in one.model.named_parameters() if "lora_" not in n and p.numel() > 1000} for one in two
    ]
    assert pointers[0] == pointers[1]


def test_a_run_that_is_damaged_is_told_and_the_others_go_on(several: Server) -> None:
    bad = several.post("/v1/completions", model="white", prompt="The", max_tokens=1)
    assert bad.status_code == 500 and "white/adapter was made for seedling" in bad.json()["error"]["message"]
    assert several.post("/v1/completions", model="red", prompt="The", max_tokens=1).status_code == 200
