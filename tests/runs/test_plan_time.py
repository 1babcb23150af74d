"""The time in a run's plan line: what `estimate` says from the config.json."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from florilegium.config import make_config
from florilegium.data import read_rows_of
from florilegium.model import LoadedModel, attach_adapter, count_parameters
from florilegium.runs import rates
from florilegium.runs.estimate import estimate
from florilegium.runs.plan import plan_execution
from florilegium.runs.plan_text import say_plan
from florilegium.runs.plan_time import planned_seconds
from florilegium.runs.prepare import prepare
from florilegium.runs.recorder import NullView


@pytest.mark.parametrize("bits", [32, 8])
def test_it_is_what_estimate_says(bits: int, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "processor_rate", lambda width, dtype: 1e7)
    config = make_config({"data": "sample", "model": str(tiny), "bits": bits, "max_steps": 30, "device": "cpu"})
    prepared = prepare(config, NullView())
    loaded = LoadedModel(prepared.base, attach_adapter(prepared.base, prepared.config))
    plan = plan_execution(prepared, loaded)
    seconds, told = planned_seconds(prepared, plan), estimate(config, read_rows_of(config)).seconds
    assert seconds is not None and told is not None and seconds > 5
    assert seconds == pytest.approx(told, rel=0.1)
    longer = replace(plan, length=replace(plan.length, num_steps=60))
    assert planned_seconds(prepared, longer) == pytest.approx(2 * seconds, rel=0.5)


def test_the_plan_line_says_it(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "processor_rate", lambda width, dtype: 1e7)
    config = make_config({"data": "sample", "model": str(tiny), "bits": 32, "max_steps": 30, "device": "cpu"})
    prepared = prepare(config, NullView())
    plan = plan_execution(prepared, LoadedModel(prepared.base, attach_adapter(prepared.base, prepared.config)))
    lines: list[str] = []

    class Lines(NullView):
        def say(self, line: str) -> None:
            lines.append(line)

    for world in (1, 2):
        say_plan(Lines(), prepared, plan, count_parameters(prepared.base.model), tiny, world)
    one, two = [line for line in lines if line.startswith("plan ")]
    assert ", about " in one and "about" not in two, "several processes have no rate of their own"


@pytest.mark.parametrize(("asked", "timed"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_a_product_is_timed_in_what_the_run_computes_in(
    asked: str, timed: torch.dtype, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A processor with bfloat16 of its own multiplies several times as fast in it."""
    given: list[torch.dtype] = []

    def rate(width: int, dtype: torch.dtype) -> float:
        given.append(dtype)
        return 1e7

    monkeypatch.setattr(rates, "processor_rate", rate)
    config = make_config({"data": "sample", "model": str(tiny), "dtype": asked, "max_steps": 3, "device": "cpu"})
    prepared = prepare(config, NullView())
    plan = plan_execution(prepared, LoadedModel(prepared.base, attach_adapter(prepared.base, prepared.config)))
    planned_seconds(prepared, plan)
    estimate(config, read_rows_of(config))
    assert given == [timed, timed]
