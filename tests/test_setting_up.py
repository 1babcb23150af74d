"""Which paths run: what 'auto' cannot take is dropped from the config too, what was named is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from florilegium.config import make_config
from florilegium.errors import UsageError
from florilegium.model import attach_adapter
from florilegium.prepare import Prepared, prepare
from florilegium.recorder import Silent
from florilegium.setting_up import set_up


def prepared_for_block(tiny: Path, asked: str) -> Prepared:
    """As on a CUDA machine, where `block` is chosen before the model is known; here nothing can run it."""
    prepared = prepare(make_config({"model": str(tiny), "device": "cpu", "fast": "loss"}), Silent())
    prepared.fast, prepared.asked_fast = ("block", "loss"), asked
    prepared.config = replace(prepared.config, fast="block,loss")
    return prepared


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine where block cannot run")
def test_auto_drops_a_path_from_the_config_too(tiny: Path) -> None:
    prepared = prepared_for_block(tiny, "auto")
    assert set_up(prepared, attach_adapter(prepared.base, prepared.config)) is None
    assert prepared.fast == ("loss",) and prepared.config.fast == "loss"


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine where block cannot run")
def test_a_named_path_that_cannot_run_is_refused(tiny: Path) -> None:
    prepared = prepared_for_block(tiny, "block,loss")
    with pytest.raises(UsageError, match="the fast path 'block' cannot run"):
        set_up(prepared, attach_adapter(prepared.base, prepared.config))
