"""Several runs behind one server: each is asked by its name, few are in memory, and their base is there once."""

from __future__ import annotations

import asyncio
import gc
import json
import queue
import shutil
import weakref
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import httpx2 as httpx
import pytest
from openai import AsyncOpenAI

from florilegium.generation import Request, TokenEvent
from florilegium.generation.tuned import load
from florilegium.model import LoadedModel
from florilegium.model.base_sampling import base_sampling
from florilegium.model.shared_base import Bases
from florilegium.seedling import FOLDER
from florilegium.serve.api_errors import ApiError
from florilegium.serve.choices import Texts
from florilegium.serve.hosted import Job
from florilegium.serve.metrics import Metrics
from florilegium.serve.models import Models, ServedModel
from florilegium.serve.prompts import asked_of
from florilegium.serve.worker import Worker
from tests.export.adapters import save_adapter
from tests.serve.conftest import Server, serving

SETTINGS = replace(base_sampling(FOLDER), max_new_tokens=24, seed=5)


@pytest.fixture(scope="module")
def runs(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    for number, name in enumerate(("red", "green", "blue")):
        shutil.copytree(run, folder / name)
        facts = (folder / name / "adapter" / "florilegium.json").read_text()
        shutil.rmtree(folder / name / "adapter")
        save_adapter(FOLDER, folder / name / "adapter", size=0.05, seed=number)
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


def test_texts_of_three_runs_and_their_base_are_written_at_once(several: Server, runs: Path) -> None:
    """More than are held: one leaves while its text is under way. Each text is what its run writes alone."""
    names = ["red", "green", "blue", "seedling"]
    alone = {name: load(runs / (name if name != "seedling" else "red")) for name in names}
    asked = [(name, seed) for seed in range(4) for name in names]
    wanted = [
        alone[name].generate("The sea", settings=replace(SETTINGS, seed=seed), use_base=name == "seedling")[0].text
        for name, seed in asked
    ]

    async def ask() -> list[str]:
        client = AsyncOpenAI(base_url=f"{several.url}/v1", api_key="none", max_retries=0, timeout=60)
        one = partial(client.completions.create, prompt="The sea", max_tokens=24)
        found = await asyncio.gather(*[one(model=name, seed=seed) for name, seed in asked])
        return ["The sea" + answer.choices[0].text for answer in found]

    assert asyncio.run(ask()) == wanted and len(set(wanted)) >= 8


def test_models_on_one_base_share_an_engine_until_they_leave(runs: Path) -> None:
    bases = Bases()
    red, green, blue = (load(runs / name, bases=bases).loaded for name in ("red", "green", "blue"))
    own = load(runs / "red").loaded  # its base is not shared
    sea = own.base.tokenizer("The sea").input_ids
    worker = Worker(slots=2, max_length=64, queue_size=8)
    worker.start()

    def texts(*models: LoadedModel) -> list[list[int]]:
        """What each writes, all asked for at once."""
        came: list[queue.SimpleQueue[TokenEvent | ApiError]] = [queue.SimpleQueue() for _ in models]
        for model, heard in zip(models, came, strict=True):
            worker.submit(Job(model, Request(sea, 0, SETTINGS), heard.put))
        found = []
        for heard in came:
            found.append([])
            while not (event := heard.get(timeout=60)).ended:
                found[-1].append(event.token_id)
        return found

    hosted: list[int] = []
    try:
        for model in (red, green, own):
            worker.call(partial(worker.host, model)).result()
        first = texts(red, green, own)
        assert first[0] == first[2] != first[1]
        hosted.append(len(worker.hosted))
        worker.retire(red)
        worker.retire(own)
        worker.call(partial(worker.host, blue)).result()
        second = texts(blue, green, red)  # red comes back for this one
        assert second[1:] == [first[1], first[0]] and second[0] not in first
        worker.call(lambda: None).result()
        (engine,) = worker.hosted
        assert set(engine.models) == {id(green), id(blue)}
    finally:
        worker.stop()
    assert hosted == [2]


def test_a_run_that_is_removed_takes_no_other_with_it(runs: Path, tmp_path: Path) -> None:
    own = [shutil.copytree(runs / name, tmp_path / name) for name in ("red", "green")]
    models = Models(Worker(slots=1, max_length=64, queue_size=1), load, own)
    assert {models.find(name).name for name in ("red", "green", None)} == {"red", "green"}
    shutil.rmtree(tmp_path / "green")
    with pytest.raises(ApiError) as gone:  # known a moment ago
        models.find("green")
    assert gone.value.status == 404 and models.find("red").name == models.find(None).name == "red"


HOW_REPLACED = {
    "another in its place": lambda own, other: (shutil.rmtree(own), shutil.copytree(other, own)),
    "another adapter": lambda own, other: (shutil.rmtree(own / "adapter"), shutil.copytree(other / "adapter", own / "adapter")),
    "weights written over": lambda own, other: shutil.copyfile(
        other / "adapter" / "adapter_model.safetensors", own / "adapter" / "adapter_model.safetensors"),
}  # fmt: skip


@pytest.mark.parametrize("how", HOW_REPLACED)
def test_a_run_that_was_trained_anew_is_loaded_anew(runs: Path, tmp_path: Path, how: str) -> None:
    """A text under way ends as it began; the old weights are let go with it."""
    own = shutil.copytree(runs / "red", tmp_path / "red")
    names = ("red", "blue")
    wanted = [load(runs / name).generate("The sea", settings=SETTINGS)[0].text for name in names]
    assert wanted[0] != wanted[1]
    worker = Worker(slots=2, max_length=64, queue_size=8)
    worker.start()
    models = Models(worker, lambda run, bases: load(run, bases=bases), [own])

    def begun(served: ServedModel) -> Texts:
        return Texts(worker, served, asked_of(served, ["The sea"], SETTINGS), (), Metrics())

    async def write() -> list[str]:
        worker.post = asyncio.get_running_loop().call_soon_threadsafe
        texts = []
        old = begun(await models.get("red"))
        released.append(weakref.ref(old.jobs[0].loaded))
        worker.submit(old.jobs[0])
        HOW_REPLACED[how](own, runs / "blue")
        for served in [await models.get("red"), await models.get("red"), await models.get("seedling")]:
            assert served.tuned is (await models.get("red")).tuned
            texts.append(begun(served))
            worker.submit(texts[-1].jobs[0])
        assert texts[0].jobs[0].loaded is not old.jobs[0].loaded
        return [await _text(one) for one in (old, *texts[:2])]

    released: list[weakref.ref[LoadedModel]] = []
    try:
        assert asyncio.run(write()) == [wanted[0], wanted[1], wanted[1]]
        worker.call(lambda: None).result()
        gc.collect()
        assert released[0]() is None, "the old weights are still held"
    finally:
        worker.stop()


async def _text(texts: Texts) -> str:
    text = "The sea"
    while texts.running:
        text += "".join([piece.text for piece in await texts.more()])
    texts.inbox.close()
    return text


def test_a_base_is_asked_by_a_run_that_is_still_there(runs: Path, tmp_path: Path) -> None:
    own = [shutil.copytree(runs / name, tmp_path / name) for name in ("red", "green")]
    worker = Worker(slots=1, max_length=64, queue_size=1)
    worker.start()
    models = Models(worker, lambda run, bases: load(run, bases=bases), own)
    try:
        asyncio.run(models.get("green"))
        shutil.rmtree(tmp_path / "green")
        assert asyncio.run(models.get("seedling")).run == own[0]
    finally:
        worker.stop()


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
