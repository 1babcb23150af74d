"""A model made without numbers is the same model, and only there nothing is drawn."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from florilegium.model import transformers_loader
from florilegium.model.transformers_loader import outline
from florilegium.model.undrawn import Undrawn

CONFIG: dict[str, Any] = {"model_type": "bloom", "hidden_size": 64, "n_layer": 2, "n_head": 4, "vocab_size": 512}


def test_nothing_is_drawn_on_the_meta_device(monkeypatch: Any) -> None:
    """Same names, shapes, dtypes, ties; and no draw reaches torch."""
    drawn: list[str] = []
    uniform = torch.Tensor.uniform_
    monkeypatch.setattr(
        torch.Tensor, "uniform_", lambda self, *a, **k: (drawn.append("uniform"), uniform(self, *a, **k))[1]
    )
    fast = outline(CONFIG, "it")
    assert not drawn
    monkeypatch.setattr(transformers_loader, "Undrawn", lambda: torch.device("meta"))
    plain = outline(CONFIG, "it")
    assert drawn

    def told(model: nn.Module) -> list[tuple[str, Any]]:
        return [(n, (p.shape, p.dtype, p.device, p.requires_grad)) for n, p in model.named_parameters()]

    assert told(fast) == told(plain)
    assert fast.get_output_embeddings().weight is fast.get_input_embeddings().weight


def test_elsewhere_numbers_are_drawn_as_ever() -> None:
    torch.manual_seed(0)
    wanted = nn.Linear(3, 5)
    torch.manual_seed(0)
    with Undrawn():
        inside = nn.Linear(3, 5)
    assert torch.equal(inside.weight, wanted.weight) and torch.equal(inside.bias, wanted.bias)
