"""What all tests share: no network, two threads, a tiny BLOOM made once, the project's data where it lies."""

from __future__ import annotations

import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# one thread a worker: threads of several processes on the same cores wait for each other
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random 2-layer BLOOM of 4 heads."""
    from tests.tiny import save_tiny

    return save_tiny(tmp_path_factory.mktemp("models") / "tiny-bloom")


@pytest.fixture
def english_quotes() -> Path:
    """The real Abirate/english_quotes, or a skip where it is not at hand."""
    folder = Path(os.environ.get("FLORILEGIUM_DATA", ROOT.parent / "shared" / "data"))
    path = folder / "english_quotes.jsonl"
    if not path.is_file():
        pytest.skip(f"english_quotes is not at {path}; set FLORILEGIUM_DATA to its folder")
    return path
