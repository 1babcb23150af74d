"""Loading a tuned model from disk."""

from __future__ import annotations

from pathlib import Path

import torch

from florilegium.config import make_config
from florilegium.generation.tuned import load
from florilegium.model import AdapterFacts, attach_adapter, base_facts, load_base, save_adapter

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def test_loading_leaves_the_callers_random_numbers_alone(tiny: Path, tmp_path: Path) -> None:
    """PEFT draws a fresh adapter before it reads the one on disk."""
    base = load_base(str(tiny), device=DEVICE)
    model = attach_adapter(base, make_config({"lora_rank": 2}))
    save_adapter(model, base, tmp_path / "adapter", AdapterFacts(base=base_facts(base)), "card")
    torch.manual_seed(5)
    drawn = torch.rand(4), torch.rand(4, device=DEVICE)
    torch.manual_seed(5)
    load(tmp_path / "adapter", device=DEVICE.type)
    assert torch.equal(torch.rand(4), drawn[0]) and torch.equal(torch.rand(4, device=DEVICE), drawn[1])
