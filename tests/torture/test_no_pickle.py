"""No command opens a pickle, whatever it reads: torch.load and pickle itself raise in the whole process."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import time
import urllib.request
from pathlib import Path

import pytest

from tests.tiny import PAGES
from tests.torture.conftest import train_arguments
from tests.warm import Child, Warm

NONE = ("no_pickle", {})


@pytest.fixture(scope="module")
def trained(warm: Warm, tiny: Path, quotes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that saved, looked and reported without opening one."""
    run = tmp_path_factory.mktemp("runs") / "run"
    child = warm.run(train_arguments(tiny, quotes, run), cwd=run.parent, before=NONE)
    assert child.code == 0, child.err
    return run


def test_the_fault_is_one(warm: Warm, tmp_path: Path) -> None:
    """Else the tests below would say nothing: a command that opens a pickle fails under it."""
    child = warm.run(["version"], cwd=tmp_path, before=("no_pickle", {"opened": str(tmp_path / "x.bin")}))
    assert child.code == 1 and "a pickle was opened" in child.err


def test_generate_opens_none(warm: Warm, trained: Path, tmp_path: Path) -> None:
    child = warm.run(["generate", "--run", trained, "-n", "1", "--max-new-tokens", "3"], cwd=tmp_path, before=NONE)
    assert child.code == 0, child.err


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["evaluate", "RUN", "--base", "--generations", "4", "--rows", "8", "--general", str(PAGES)],
        ["export", "RUN", "--to", "merged", "--output", "merged"],
        ["export", "RUN", "--to", "gguf-adapter", "--output", "adapter.gguf"],
        ["report", "RUN"],
        ["inspect", "ROWS"],
        ["train", "ROWS", "--from", "RUN", "--max-steps", "2", "--output", "further"],
    ],
    ids=lambda command: " ".join(command[:1] + command[2:4]),
)
def test_a_command_opens_none(warm: Warm, trained: Path, quotes: Path, tmp_path: Path, command: list[str]) -> None:
    names = {"RUN": str(trained), "ROWS": str(quotes)}
    child = warm.run([names.get(word, word) for word in command], cwd=tmp_path, before=NONE)
    assert child.code == 0, child.err


def test_resume_opens_none(warm: Warm, trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    shutil.rmtree(run / "adapter")
    shutil.rmtree(run / "checkpoints" / "step-00000012")
    child = warm.run(["resume", run], cwd=tmp_path, before=NONE)
    assert child.code == 0 and "resuming at step 10" in child.err, child.err


def _url(child: Child, seconds: float = 120) -> str:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and child.poll() is None:
        time.sleep(0.02)
        with contextlib.suppress(FileNotFoundError):  # it has only just been forked
            if "\n" in child.out:
                return str(json.loads(child.out.splitlines()[0])["url"])
    raise AssertionError(child.err)


@pytest.mark.slow
def test_serve_opens_none(warm: Warm, trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    child = warm.start(["serve", trained, "--port", "0", "--json"], cwd=tmp_path, before=NONE)
    try:
        body = json.dumps({"prompt": "Be kind", "max_tokens": 3}).encode()
        request = urllib.request.Request(f"{_url(child)}/v1/completions", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as answer:
            assert json.load(answer)["choices"]
    finally:
        child.send(signal.SIGTERM)
        child.wait()
    assert "a pickle was opened" not in child.err
