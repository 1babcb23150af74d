"""A `--gpu-memory-limit` beyond what the card has: nothing is planned with more than what is there."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from florilegium.cli.main import main
from florilegium.config import TrainConfig, make_config
from florilegium.data import read_rows_of
from florilegium.model.gpus import find_gpu
from florilegium.model.memory_plan import MemoryPlan
from florilegium.runs.estimate import Estimate, estimate
from florilegium.runs.estimate_memory import room_on
from florilegium.runs.plan_text import describe_memory
from florilegium.runs.processes import card_room
from tests.runs.test_estimate import folder_of

GIB = 2**30


@pytest.fixture
def bloom(tmp_path: Path) -> Path:
    return folder_of("bloom-7b1", tmp_path)


def told(model: Path, gpu: str, limit: float | None, gpus: int = 1, **more: Any) -> Estimate:
    config = make_config({"model": str(model), "gpu_memory_limit": limit, **more})
    return estimate(config, read_rows_of(config), gpu, gpus)


@pytest.mark.parametrize(("limit", "expected"), [(70.0, 21), (1e300, 21), (20.0, 17), (2.0, 0), (None, 19)])
def test_a_process_of_several_has_what_its_card_has(
    limit: float | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """21 GiB are free beside the 3 that it holds."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (21 * GIB, 24 * GIB))
    for name in ("memory_reserved", "memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda: 3 * GIB)
    several = SimpleNamespace(has_others=True, device=torch.device("cuda"), smallest=lambda number: number)
    assert card_room(make_config({"gpu_memory_limit": limit}), cast(Any, several)) // GIB == expected


def test_an_estimate_counts_on_the_card_that_is_named() -> None:
    card = find_gpu("24")
    within = [room_on(TrainConfig(gpu_memory_limit=limit), card) / GIB for limit in (70.0, 1e300, 23.5, 8.0)]
    assert within == [23.5, 23.5, 23.5, 8.0]
    assert room_on(TrainConfig(), card) == card.budget
    assert room_on(TrainConfig(gpu_memory_limit=1.0), None) == room_on(TrainConfig(), None), "of a GPU alone"


def test_a_base_that_fits_no_card_of_this_size_is_not_planned(
    bloom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["estimate", "--model", str(bloom), "--gpu", "8", "--memory", "lean", "--gpu-memory-limit", "70"]
    assert main(argv) == 5
    assert "more than the 7.5 GiB of a GPU of 8 GB that a run may take" in capsys.readouterr().err
    assert main(["estimate", "--for", "generate", *argv[1:], "--json"]) == 5
    assert json.loads(capsys.readouterr().out)["generation"]["available_bytes"] == 7.5 * GIB


def test_blocks_go_to_main_memory_and_stay_there_as_far_as_the_card_is_small(bloom: Path) -> None:
    """Else all of them came back: there seemed to be room for them."""
    found = told(bloom, "6", 70.0)
    assert found.config.memory == "offload" and found.memory.fits and found.memory.needed <= 5.5 * GIB
    assert found.memory.plan is not None and found.memory.plan.offloaded > 0


def test_stages_are_as_many_as_the_cards_are_small(bloom: Path) -> None:
    one, several = (told(bloom, "6", limit, gpus=4, parallel="auto").cards for limit in (None, 70.0))
    assert one is not None and several is not None and several.stages and several.stages == one.stages


@pytest.mark.parametrize(("limit", "whole"), [(None, "140"), (24.0, "24 (--gpu-memory-limit)"), (1e300, "140")])
def test_the_peak_is_said_beside_what_may_be_taken(
    limit: float | None, whole: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=140 * GIB))
    memory = MemoryPlan(30, 30, 0, 1024, 23 * GIB)
    assert describe_memory(memory, 30, limit).endswith(f"predicted peak 23.0 GiB of {whole}")
