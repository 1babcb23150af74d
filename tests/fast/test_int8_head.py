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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_are_those_of_both_heads(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of large scores, which bfloat16 would round by more than the heads differ; a share of the vocabulary at a time."""
    monkeypatch.setattr(int8_head, "ROWS", 128)
    monkeypatch.setattr(int8_head, "POSITIONS", 256)
    torch.manual_seed(0)
    hidden, weight = (2 * torch.randn(600, 32)).to(dtype), (2 * torch.randn(300, 32)).to(dtype)
    targets = torch.randint(0, 300, (600,))
    int8, scale = int8_head.int8_rows(weight)
    heads = (weight.double(), int8.double() * scale.double()[:, None])
    wanted = [torch.nn.functional.cross_entropy(hidden.double() @ h.T, targets, reduction="none") for h in heads]
    found = int8_head.losses_of_both_heads(hidden, weight, targets)
    assert all(torch.allclose(ours.double(), exact, atol=1e-4) for ours, exact in zip(found, wanted, strict=True))
    assert not torch.allclose(found[0], found[1], atol=1e-2)


def test_it_is_asked_for_by_name() -> None:
    device = torch.device("cuda")
    with acting_as(CARDS["RTX 3090"]):
        assert "int8-head" not in fast.select_kernels("auto", device, 8)[0]
        assert fast.select_kernels("auto,int8-head", device, 8) == ((*fast.AUTO, "int8-head"), "")
        assert "which is not among them" in fast.select_kernels("chunked-loss,int8-head", device, 8)[1]
    names, reason = fast.select_kernels("auto,int8-head", torch.device("cpu"), 8)
    assert names[-1] == "int8-head" and "'int8-head' is not supported here: its kernels need CUDA" in reason
