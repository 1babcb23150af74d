"""Where `--memory auto` puts a base's blocks, known before a weight is read; only the card's memory is made up here."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from florilegium.config import make_config
from florilegium.errors import ResourceError, UsageError
from florilegium.model import card_memory, offload
from florilegium.model.gpus import GIB, Gpu
from florilegium.model.memory_plan import peak_bytes, without_blocks
from florilegium.model.offload import Placement, check_offload, place_blocks
from florilegium.model.skeleton import read_skeleton
from florilegium.runs import estimate_advice
from florilegium.runs.estimate_advice import refuse_what_fits_nowhere
from tests.runs.test_estimate import config_of, folder_of

CUDA = torch.device("cuda")
FUSED = ("fused-blocks", "chunked-loss")


@pytest.fixture
def bloom(tmp_path: Path) -> Path:
    return folder_of("bloom-7b1", tmp_path)


def card(monkeypatch: pytest.MonkeyPatch, gib: float, host: float = 64) -> Gpu:
    """This machine's card, of which so much may be taken, and its main memory."""
    found = replace(Gpu("RTX 3090", 0, capability=(8, 6)), memory=int(gib * GIB / 0.92 + 0.5 * GIB) + 1)
    for module in (offload, estimate_advice):
        monkeypatch.setattr(module, "this_card", lambda: found)
    monkeypatch.setattr(offload, "available_memory", lambda: int(host * GIB))
    monkeypatch.setattr(estimate_advice, "available_memory", lambda: int(host * GIB))
    return found


def placed(model: Path, longest: int = 64, world: int = 1, **more: Any) -> Placement:
    return place_blocks(make_config({"model": str(model), **more}), CUDA, world, FUSED, longest)


def test_a_long_row_decides_too(bloom: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is never cut: a base that fits beside a row of 64 tokens may not beside one of 4,096."""
    shape = read_skeleton(make_config({"model": str(bloom)})).shape(8, reads_int8=False)
    assert shape is not None
    short, long = (peak_bytes(shape, tokens, 0, 0, 0) / GIB for tokens in (64, 4096))
    card(monkeypatch, (short + long) / 2)
    assert placed(bloom).fits and not placed(bloom).offload and placed(bloom, longest=4050).offload
    card(monkeypatch, peak_bytes(without_blocks(shape, 8), 64, 0, 0, 0) / GIB + 0.01)
    assert placed(bloom).offload
    nowhere = placed(bloom, longest=4096)
    assert not nowhere.fits and "does not fit either" in nowhere.reason


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"dtype": "float32"}, "--dtype is float32"),
        ({"dtype": "float16"}, "--dtype is float16"),
        ({"lora_rank": 512, "target_modules": "all-linear"}, "a rank of up to 256"),
        ({"kernels": "chunked-loss"}, "--kernels leaves the fused blocks out"),
        ({"kernels": "off"}, "--kernels leaves the fused blocks out"),
    ],
)
def test_what_the_fused_blocks_refuse_keeps_the_blocks_on_the_card(
    bloom: Path, more: dict[str, Any], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`auto` took it all the same, and the run then was told to use --memory lean, which does not fit."""
    card(monkeypatch, 6)
    assert placed(bloom).offload
    found = placed(bloom, **more)
    assert not found.fits and why in found.reason
    with pytest.raises(UsageError, match=re.escape(why)):
        check_offload(make_config({"model": str(bloom), "memory": "offload", **more}), CUDA, 1, FUSED)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"n_head": 16}, "heads of up to 128 numbers, and this model's have 256"),
        ({"apply_residual_connection_post_layernorm": True}, "and this model has it after"),
        ({"hidden_dropout": 0.1}, "dropout"),
    ],
)
def test_a_model_that_they_do_not_take(
    tmp_path: Path, change: dict[str, Any], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    card(monkeypatch, 6)
    (tmp_path / "config.json").write_text(json.dumps(config_of("bloom-7b1") | change))
    found = placed(tmp_path)
    assert not found.fits and why in found.reason


def test_what_fits_nowhere_is_told_with_what_would_do(bloom: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 5, before a weight is read: how much too little it is, why not beside the card, and which bits or card."""
    card(monkeypatch, 6)
    config = make_config({"model": str(bloom), "dtype": "float32"})
    with pytest.raises(ResourceError) as told:
        refuse_what_fits_nowhere(config, place_blocks(config, CUDA, 1, FUSED), 64)
    assert told.value.exit_code == 5
    said = f"{told.value.cause}. {told.value.fix}"
    assert (
        re.search(r"it needs 7\.5 GiB at least, 1\.5 GiB more than the 6\.0 GiB", said) and "--dtype is float32" in said
    )
    assert "Use --bits 4 --memory" in said and "--memory offload" not in said
    card(monkeypatch, 6, host=3)  # the blocks take 5.6 GiB of main memory in 8 bits, 2.8 in 4
    config = make_config({"model": str(bloom)})
    with pytest.raises(ResourceError) as told:
        refuse_what_fits_nowhere(config, place_blocks(config, CUDA, 1, FUSED), 64)
    said = f"{told.value.cause}. {told.value.fix}"
    assert "they take 5.6 GiB of main memory, of which 3.0 GiB are free" in said and "--bits 4" in said
    assert "--bits 8 --memory offload" not in said


def test_several_processes_and_small_models_are_left_alone(bloom: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card(monkeypatch, 6)
    assert "for one process" in placed(bloom, world=2).reason
    assert placed(bloom, memory="lean") == Placement(False) and placed(bloom, memory="offload") == Placement(True)
    card(monkeypatch, 40)
    assert placed(bloom) == Placement(False)  # half of the room holds it: no more is asked


def test_memory_that_torch_keeps_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that had a model before holds its memory; the driver says that it is taken."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2 * GIB, 24 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 20 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 3 * GIB)
    assert card_memory.free_memory() == 19 * GIB and card_memory.usable_memory() == int(19 * GIB * 0.92)
