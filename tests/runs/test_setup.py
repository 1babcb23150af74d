"""Which paths run: what 'auto' cannot take is dropped from the config too, what was named is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from florilegium.config import make_config
from florilegium.errors import UsageError
from florilegium.model import attach_adapter, count_parameters
from florilegium.model import fast_paths as paths
from florilegium.model.memory_plan import Forecast
from florilegium.runs import setup as setting_up
from florilegium.runs.manifest import describe_fast, say_plan
from florilegium.runs.prepare import Prepared, prepare
from florilegium.runs.recorder import Silent
from florilegium.runs.setup import set_up
from florilegium.tokens import pack
from florilegium.training import Schedule, order_of

ALL = ("fused-blocks", "flex-attention", "quantized-linear", "chunked-loss", "fast-decode")


def prepared_for_block(tiny: Path, asked: str, **settings: Any) -> Prepared:
    """As on a CUDA machine, where `block` is chosen before the model is known; here nothing can run it."""
    prepared = prepare(
        make_config({"model": str(tiny), "device": "cpu", "kernels": "chunked-loss"} | settings), Silent()
    )
    prepared.fast, prepared.asked_fast = ("fused-blocks", "chunked-loss"), asked
    prepared.config = replace(prepared.config, kernels="fused-blocks,chunked-loss")
    return prepared


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine where block cannot run")
def test_auto_drops_a_path_from_the_config_too(tiny: Path) -> None:
    prepared = prepared_for_block(tiny, "auto")
    assert set_up(prepared, attach_adapter(prepared.base, prepared.config)) is None
    assert prepared.fast == ("chunked-loss",) and prepared.config.kernels == "chunked-loss"


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine where block cannot run")
def test_a_named_path_that_cannot_run_is_refused(tiny: Path) -> None:
    prepared = prepared_for_block(tiny, "fused-blocks,chunked-loss")
    with pytest.raises(UsageError, match="the fast path 'fused-blocks' cannot run"):
        set_up(prepared, attach_adapter(prepared.base, prepared.config))


@pytest.mark.parametrize(("copies", "said"), [(0, True), (1, True), (2, False)])
def test_the_first_lines_say_how_int8_is_read(
    tiny: Path, copies: int, said: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless every block has a copy. And the lengths whose kernels are compiled ahead."""
    prepared = prepared_for_block(tiny, "auto", max_steps=4)
    model = attach_adapter(prepared.base, prepared.config)
    monkeypatch.setattr(paths, "obstacle", lambda *given: "")
    installed: list[tuple[object, ...]] = []
    monkeypatch.setattr(paths, "install_trunk", lambda bloom, *given: installed.append(given))
    monkeypatch.setattr(paths, "say_products", lambda bloom: "int8 multiplied as it is stored")
    monkeypatch.setattr(setting_up, "_forecast", lambda *given: Forecast(2, 2, copies, 1280, 2**30))
    forecast = set_up(prepared, model)
    lines: list[str] = []

    class Lines(Silent):
        def say(self, line: str) -> None:
            lines.append(line.strip())

    say_plan(Lines(), prepared, count_parameters(model), Schedule(10, 1, 1, 1), tiny, forecast)
    assert ("int8 multiplied as it is stored" in lines) is said
    (*plan, lengths) = installed[0]
    assert plan == [2, 2, copies] and "path     packed rows; fast: fused-blocks, chunked-loss" in lines
    # Of the look before the first step, then of the run's four steps; none twice, and none that would be taken in
    # pieces.
    order = order_of(prepared.training.examples, prepared.config)
    steps = [setting_up.ROUNDED.round_up(order.tokens(number)) for number in range(4)]
    held_out, plan = prepared.held_out.examples, setting_up.pack_plan(prepared, forecast)
    looks = [batch.tokens_BT.numel() for part in (held_out[:64], held_out[64:]) for batch in pack(part, plan)]
    assert len(held_out) < 128 and min(steps) <= 1280 < max(steps)
    assert lengths == list(dict.fromkeys([*looks, *(tokens for tokens in steps if tokens <= 1280)]))


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ((), "off"),
        (("flex-attention", "chunked-loss"), "flex-attention, chunked-loss"),
        (("fused-blocks", "chunked-loss"), "fused-blocks, chunked-loss"),
        (ALL, "fused-blocks, chunked-loss, fast-decode"),
    ],
)
def test_the_first_lines_name_what_runs(names: tuple[str, ...], said: str) -> None:
    assert describe_fast(names) == said
