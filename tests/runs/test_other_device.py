"""A run that is resumed on another device, or under another limit, is that device's: its dtype, its kernels, its optimizer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch.optim import AdamW

from florilegium.config import as_dict, make_config
from florilegium.runs import plan as planning
from florilegium.runs.changes import REPACKS, compare, with_changes
from florilegium.runs.train import _accelerator
from florilegium.training.optimizer import make_lr_scheduler, restore_optimizer
from florilegium.training.step import _unscale


@pytest.mark.parametrize("given", [{}, {"dtype": "float32"}])
def test_what_was_chosen_for_a_cpu_is_chosen_anew_for_a_card(given: dict[str, object]) -> None:
    written = as_dict(make_config({"device": "cpu", "dtype": "float32", "kernels": "chunked-loss"}))
    now = with_changes(written, {"device": "cuda", **given}, "")
    assert (now.dtype, now.kernels) == (given.get("dtype", "auto"), "auto")
    assert with_changes(written, {"epochs": 9.0}, "").dtype == "float32"


def test_a_smaller_card_may_be_named_on_the_way() -> None:
    before = as_dict(make_config({"gpu_memory_limit": 70.0}))
    (change,) = compare(before, make_config({"gpu_memory_limit": 20.0}))
    assert change.name in REPACKS


@pytest.mark.parametrize(("limit", "expected"), [(70.0, 22), (20.0, 20), (None, 20)])
def test_no_limit_reaches_beyond_the_card(limit: float | None, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (21 * 2**30, 24 * 2**30))
    found = planning._budget(make_config({"gpu_memory_limit": limit} if limit else {}), held=2**30)
    assert found // 2**30 == expected


@pytest.mark.parametrize(("saved_by", "own"), [({}, {"fused": True}), ({"fused": True}, {})])
def test_the_optimizer_steps_by_this_devices_kernel(saved_by: dict[str, bool], own: dict[str, bool]) -> None:
    """Of a run begun on a CPU, resumed on a card, and the other way."""
    config = make_config({})

    def made(**kernel: bool) -> tuple[torch.nn.Parameter, AdamW, Any]:
        parameter = torch.nn.Parameter(torch.ones(3))
        optimizer = AdamW([parameter], lr=0.1, **kernel)
        return parameter, optimizer, make_lr_scheduler(optimizer, config, 10)

    parameter, before, schedule = made(**saved_by)
    parameter.grad = torch.ones(3)
    before.step()
    again, optimizer, new_schedule = made(**own)
    restore_optimizer(optimizer, new_schedule, before.state_dict(), schedule.state_dict())
    assert bool(optimizer.param_groups[0]["fused"]) == bool(own.get("fused"))
    again.grad = torch.ones(3)
    if own:
        cast(Any, optimizer).found_inf, cast(Any, optimizer).grad_scale = torch.zeros(()), None
    optimizer.step()
    assert (again < 1).all() and float(optimizer.state[again]["step"]) == 2


def test_a_process_without_a_row_has_no_gradients_to_scale_back() -> None:
    """In float16, where a step has fewer rows than there are processes."""
    _unscale(cast(Any, SimpleNamespace(parameters=[torch.nn.Parameter(torch.ones(2))])), 4)


def test_accelerate_is_made_for_trackers_alone(tmp_path: Any) -> None:
    """Its device is one for the process: a run on the CPU after one on a card would be refused."""
    assert _accelerator(make_config({"device": "cpu"}), tmp_path) is None
