"""What is advised where something does not fit: never what was done already."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from florilegium.cli.estimation import show_estimate
from florilegium.config import make_config
from florilegium.data import read_rows
from florilegium.errors import ModelError, ResourceError
from florilegium.evaluation.losses import example_losses
from florilegium.model import LoadedModel, base, choose_device, load_base
from florilegium.model.load_errors import model_errors
from florilegium.runs.estimate import estimate
from florilegium.runs.estimate_generation import generation_needs
from florilegium.tokens import Example, PackPlan
from florilegium.training.loop import smaller

FULL = "[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."


@pytest.mark.parametrize(("bits", "advised"), [(8, True), (16, True), (None, True), (4, False)])
def test_a_base_that_does_not_load(bits: int | None, advised: bool) -> None:
    with pytest.raises(ResourceError) as told, model_errors("some/model", bits):
        raise RuntimeError(FULL)
    assert ("--bits 4" in told.value.fix) == advised and "smaller --model" in told.value.fix


@pytest.mark.parametrize(("memory", "advised"), [("auto", True), ("fast", True), ("lean", False)])
def test_a_row_that_does_not_fit(memory: str, advised: bool) -> None:
    row = Example([5] * 64, [True] * 64)
    with pytest.raises(ResourceError) as told:
        smaller(PackPlan(), [row], RuntimeError(FULL), memory)
    assert ("--memory lean" in told.value.fix) == advised and "--max-length" in told.value.fix


def test_a_row_that_is_measured(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise RuntimeError(FULL)

    monkeypatch.setattr("florilegium.evaluation.losses.token_losses", full)
    whole = load_base(str(tiny), bits=32, device=torch.device("cpu"))
    for bits, advised in ((8, "Evaluate with --bits 4"), (4, "machine with more memory")):
        held = replace(whole, bits=bits)
        with pytest.raises(ResourceError, match="does not fit") as told:
            example_losses(LoadedModel(held, held.model), [Example([5, 6, 7], [True] * 3)])
        assert advised in told.value.fix and "--device cpu" not in told.value.fix  # which it is


def test_texts_that_do_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    for bits in (8, 4):
        config = make_config({"data": "sample", "model": "seedling", "bits": bits, "device": "cpu"})
        found = estimate(config, read_rows("sample"))
        for one, fewer in ((0, False), (1 << 26, True)):  # bytes that one text leaves of what there is
            least = generation_needs(found.skeleton, found.config, None, 0, 1).needed
            needs = generation_needs(found.skeleton, found.config, None, least - 1 + one, 64)
            with pytest.raises(ResourceError, match="do not fit") as told:
                show_estimate(found, needs, as_json=True)
            assert ("--bits 4" in told.value.fix) == (bits == 8 and not fewer), told.value.fix
            assert ("--batch" in told.value.fix) == (fewer or bits == 8), told.value.fix


@pytest.mark.skipif(torch.cuda.is_available(), reason="what a machine without a GPU says")
def test_a_card_that_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver and a CUDA build are there: to see whether nvidia-smi lists a card helps nobody whose shell hides it."""
    monkeypatch.setattr(base.torch.version, "cuda", "13.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    with pytest.raises(ModelError, match=r"Unset CUDA_VISIBLE_DEVICES, which is '-1'"):
        choose_device("cuda")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with pytest.raises(ModelError, match="nvidia-smi lists a card whose driver knows CUDA 13.0"):
        choose_device("cuda")
    monkeypatch.setattr(base.torch.version, "cuda", None)
    with pytest.raises(ModelError, match="install a CUDA build of torch"):
        choose_device("cuda")
