"""A server as people start it: a process of its own, a port of its own, asked over loopback."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2 as httpx
import pytest
from openai import OpenAI

from florilegium.config import dump_config, make_config
from florilegium.data.novelty import NoveltyIndex
from florilegium.seedling import FOLDER
from tests.export.adapters import save_adapter
from tests.warm import Child, shared


@dataclass
class Server:
    url: str
    process: Child
    run: Path | None

    @property
    def openai(self) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=60)

    def post(self, path: str, **body: object) -> httpx.Response:
        return httpx.post(self.url + path, json=body, timeout=60)

    def gauge(self, name: str) -> float:
        for line in httpx.get(f"{self.url}/metrics").text.splitlines():
            if line.startswith(f"florilegium_{name} "):
                return float(line.split()[1])
        raise AssertionError(name)


@contextlib.contextmanager
def serving(run: Path | None, *flags: str, cwd: Path | None = None, **environment: str) -> Iterator[Server]:
    """`run` None: whatever lies in runs/ of `cwd`."""
    named = [] if run is None else [str(run)]
    command = ["serve", *named, "--port", "0", "--json", *flags]
    process = shared().start(command, cwd=cwd or Path.cwd(), env=environment)
    try:
        deadline = time.monotonic() + 120
        while "\n" not in process.out:
            assert process.poll() is None and time.monotonic() < deadline, process.err
            time.sleep(0.02)
        url = json.loads(process.out.splitlines()[0])["url"]
        yield Server(url.replace("0.0.0.0", "127.0.0.1"), process, run)
    finally:
        if process.poll() is None:
            process.send(signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model with a small random adapter. Its template's separator is a word that the model writes often, so that
    most texts are quotes with tags."""
    folder = tmp_path_factory.mktemp("runs") / "sayings"
    save_adapter(FOLDER, folder / "adapter", size=0.05)
    facts = {
        "base": {"name": "seedling"}, "bits": 32, "template": "{quote} you {tags}", "list_columns": ["tags"],
        "openings": {"The": 3, "Once": 2, "A": 1},
    }  # fmt: skip
    (folder / "adapter" / "florilegium.json").write_text(json.dumps(facts))
    (folder / "config.yaml").write_text(dump_config(make_config({"model": "seedling"})))
    NoveltyIndex.from_texts(["The sun had just set on a mountain range and nothing else was there."]).save(
        folder / "training_ngrams.safetensors"
    )
    return folder


@pytest.fixture(scope="session")
def server(run: Path) -> Iterator[Server]:
    with serving(run) as one:
        yield one
