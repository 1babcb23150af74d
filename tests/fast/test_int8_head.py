"""The head in int8: rounded to the nearest, and its losses those of its numbers."""

from __future__ import annotations

import pytest
import torch

from florilegium import fast
from florilegium.fast import int8_head
from florilegium.fast.card import CARDS, acting_as


@pytest.mark.parametrize("rows", [64, int8_head.ROWS])
def test_rows_are_rounded_to_the_nearest(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever share is rounded at a time; a row of zeros stays one."""
    torch.manual_seed(0)
    weight = torch.randn(200, 32) * torch.rand(200, 1)
    weight[7] = 0
    monkeypatch.setattr(int8_head, "ROWS", rows)
    codes, scale = int8_head.int8_rows(weight.bfloat16())
    assert codes.dtype == torch.int8 and codes[7].count_nonzero() == 0
    far = (weight.bfloat16().float() - codes.float() * scale[:, None]).abs()
    assert bool((far <= scale[:, None] / 2 * (1 + 1e-5)).all())
    largest = codes.abs().amax(1)
    assert bool((largest[torch.arange(200) != 7] == 127).all())


def test_losses_are_those_of_the_rounded_head() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(600, 32), torch.randn(300, 32)
    targets = torch.randint(0, 300, (600,))
    codes, scale = int8_head.int8_rows(weight)
    scores = hidden.double() @ (codes.double() * scale.double()[:, None]).T
    wanted = torch.nn.functional.cross_entropy(scores, targets, reduction="none")
    found = int8_head.int8_head_losses(hidden, weight, targets)
    assert torch.allclose(found.double(), wanted, atol=1e-4)
    plain = torch.nn.functional.cross_entropy(hidden @ weight.T, targets, reduction="none")
    assert not torch.allclose(found, plain, atol=1e-4)


def test_it_is_asked_for_by_name() -> None:
    device = torch.device("cuda")
    with acting_as(CARDS["RTX 3090"]):
        assert "int8-head" not in fast.select_kernels("auto", device, 8)[0]
        assert fast.select_kernels("auto,int8-head", device, 8) == ((*fast.AUTO, "int8-head"), "")
    names, reason = fast.select_kernels("auto,int8-head", torch.device("cpu"), 8)
    assert names[-1] == "int8-head" and "'int8-head' is not supported here: its kernels need CUDA" in reason
